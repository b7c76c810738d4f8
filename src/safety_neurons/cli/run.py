"""`safety-neurons run`: the whole job, by default on the embedded pair."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.cli.find import find_options, harmful_prompts, harmless_prompts
from safety_neurons.cli.validate import print_summary, validate_options


@explained
def command(
    aligned: o.Aligned = "embedded:aligned",
    unaligned: o.Unaligned = "embedded:unaligned",
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/embedded"),
    ranking: o.Rankings = None,
    site: o.Sites = None,
    shares: o.Shares = o.SHARES,
    controls: o.Controls = defaults.CONTROLS,
    control_shares: o.ControlShares = "",
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
    template_arg: o.TemplateArgs = None,
    template_from: o.TemplateFrom = None,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Find, validate and report with the built-in prompts.

    Rankings are made in float32; `--dtype` is that of the validation.
    """
    from safety_neurons.judges import judges_of
    from safety_neurons.judges.calibration import Calibration
    from safety_neurons.report import render_report
    from safety_neurons.storage import require_place
    from safety_neurons.studies.finding import find
    from safety_neurons.studies.validation import TestPrompts, validate

    judges = judges_of(judge or defaults.JUDGE)
    if calibration is not None:
        Calibration.read(calibration, judges.first.name)
    require_place(out, folder=True)
    options = find_options(ranking, site, max_new_tokens, batch_size, None, template_arg)
    validation = validate_options(
        shares, controls, control_shares, lengths, strengths, max_new_tokens, batch_size, seed
    )
    prompt_set = harmful_prompts(None, "prompt", limit, seed)
    tested = TestPrompts.builtin().limited(limit, seed=seed)
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
        prompt_set,
        options,
        harmless=harmless_prompts(None, "prompt", limit, seed),
        progress=o.bars(),
    )
    pair = load(dtype=dtype)
    summary = validate(
        folder, pair, tested, validation, judge=judges, calibration=calibration, progress=o.bars()
    )
    print_summary(summary)
    typer.echo(f"Report: {render_report(folder)}")
