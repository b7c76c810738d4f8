"""`safety-neurons run`: the whole job, by default on the embedded pair."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.cli.find import find_options, harmful_prompts
from safety_neurons.cli.validate import SHARES, print_summary, test_prompts, validate_options


@explained
def command(
    aligned: o.Aligned = "embedded:aligned",
    unaligned: o.Unaligned = "embedded:unaligned",
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/embedded"),
    ranking: o.Rankings = None,
    shares: o.Shares = SHARES,
    controls: o.Controls = 3,
    strengths: o.Strengths = "",
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = 40,
    seed: o.Seed = 0,
    dtype: o.DType = "auto",
    device: o.Device = None,
    batch_size: o.BatchSize = 32,
    template_arg: o.TemplateArgs = None,
    template_from: o.TemplateFrom = None,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Find, validate and report with the built-in prompts.

    Rankings are made in float32; `--dtype` is that of the validation.
    """
    from safety_neurons.artifacts import require_place
    from safety_neurons.finding import find
    from safety_neurons.report import render_report
    from safety_neurons.validation import validate

    require_place(out, folder=True)
    options = find_options(ranking, max_new_tokens, batch_size, None, template_arg)
    validation = validate_options(shares, controls, strengths, max_new_tokens, batch_size, seed)
    asked = harmful_prompts(None, "prompt", limit, seed)
    tested = test_prompts(None, None, None, "prompt", seed).limited(limit, seed=seed)
    load = functools.partial(
        o.load_pair,
        aligned,
        unaligned,
        device=device,
        trust_remote_code=trust_remote_code,
        template_from=template_from,
    )
    folder = find(load(dtype="float32"), out, asked, options, progress=o.bars())
    summary = validate(folder, load(dtype=dtype), tested, validation, progress=o.bars())
    print_summary(summary)
    typer.echo(f"Report: {render_report(folder)}")
