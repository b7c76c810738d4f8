"""`safety-neurons run`: the whole job, by default on the embedded pair."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.cli.find import find_options
from safety_neurons.cli.validate import OtherPrompts, print_summary, validate_options

if TYPE_CHECKING:
    from safety_neurons.prompts import PromptSet
    from safety_neurons.studies.validation import TestPrompts


@explained
def command(
    aligned: o.Aligned = "embedded:aligned",
    unaligned: o.Unaligned = "embedded:unaligned",
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/embedded"),
    prompts: o.Prompts = None,
    harmless: Annotated[
        str | None, typer.Option(help="Harmless prompts; by default built-in ones.")
    ] = None,
    borderline: OtherPrompts = None,
    prompt_column: o.PromptColumn = "prompt",
    ranking: o.Rankings = None,
    site: o.Sites = None,
    shares: o.Shares = o.SHARES,
    controls: o.Controls = defaults.CONTROLS,
    control_shares: o.ControlShares = "",
    control_ranking: o.ControlRankings = None,
    lengths: o.Lengths = "",
    strengths: o.Strengths = "",
    judge: o.Judges = None,
    calibration: o.CalibrationFile = None,
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    dtype: o.DType = o.AUTO,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    system: o.System = None,
    template_arg: o.TemplateArgs = None,
    template_from: o.TemplateFrom = None,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Find, validate and report.

    Of your own harmful prompts half is found on, a sixth chosen on and a third tested on (of
    harmless ones half and half), unless a column `split` says find, select and test. Rankings are
    made in float32; --dtype is that of the validation.
    """
    from safety_neurons.report import render_report
    from safety_neurons.storage import require_place
    from safety_neurons.studies.finding import find
    from safety_neurons.studies.validation import validate

    judges = o.judging(judge, calibration)
    require_place(out, folder=True)
    options = find_options(ranking, site, max_new_tokens, batch_size, system, template_arg)
    validation = validate_options(
        shares,
        controls,
        control_shares,
        lengths,
        strengths,
        max_new_tokens,
        batch_size,
        seed,
        rankings=list(options.rankings),
        control_rankings=control_ranking,
    )
    found_on, harmless_read, tested = _prompts(prompts, harmless, borderline, prompt_column, seed)
    load = functools.partial(
        o.load_pair,
        aligned,
        unaligned,
        device=device,
        trust_remote_code=trust_remote_code,
        template_from=template_from,
    )
    folder = find(
        load(dtype=o.FLOAT32),
        out,
        found_on.limited(limit, seed=seed),
        options,
        harmless=harmless_read.limited(limit, seed=seed),
        progress=o.bars(),
    )
    summary = validate(
        folder,
        load(dtype=dtype),
        tested.limited(limit, seed=seed),
        validation,
        judge=judges,
        calibration=calibration,
        progress=o.bars(),
    )
    print_summary(summary)
    typer.echo(f"Report: {render_report(folder)}")


def _prompts(
    harmful: str | None,
    harmless: str | None,
    borderline: str | None,
    column: str,
    seed: int,
) -> tuple[PromptSet, PromptSet, TestPrompts]:
    """Harmful prompts to find on, harmless ones to read there, and what is tested on."""
    from safety_neurons.prompts import Kind, Split, builtin, parts_of
    from safety_neurons.studies.validation import TestPrompts

    found_on, read = builtin(Kind.HARMFUL, Split.FIND), builtin(Kind.HARMLESS, Split.FIND)
    tested = TestPrompts.of_files(borderline=borderline, column=column)
    if harmful is not None:
        shares = {"find": 1 / 2, "select": 1 / 6, "test": 1 / 3}
        found_on, select, test = parts_of(harmful, shares, column=column, seed=seed)
        tested = replace(tested, select=select, test=test)
    if harmless is not None:
        shares = {"find": 1 / 2, "test": 1 / 2}
        read, rest = parts_of(harmless, shares, column=column, seed=seed)
        tested = replace(tested, harmless=rest)
    return found_on, read, tested
