"""`safety-neurons apply`: a run's aligned model, strengthened, as an ordinary checkpoint."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    run: o.Run,
    scale: Annotated[
        float, typer.Option(help="What the neurons' activations are multiplied by; 1 or more.")
    ],
    share: Annotated[float, typer.Option(help="The fraction of all neurons that is scaled.")],
    out: o.Out,
    ranking: Annotated[
        str | None, typer.Option(help="By default the run's primary ranking.")
    ] = None,
    judge: Annotated[str, typer.Option(help="Who says what a refusal is.")] = defaults.JUDGE,
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
) -> None:
    """Write the run's aligned model with its top neurons amplified, as a plain checkpoint.

    The adapter is folded in. Refusals of harmful prompts are measured before and after; a drop is
    refused. `undo` gives the model back.
    """
    from safety_neurons.inference import Decoding
    from safety_neurons.prompts import Kind, Split, builtin
    from safety_neurons.runs import RunFolder
    from safety_neurons.storage import require_place
    from safety_neurons.studies.applying import apply_scale

    require_place(out, folder=True)
    applied = apply_scale(
        RunFolder.open(run),
        out,
        scale,
        share,
        ranking,
        prompts=builtin(Kind.HARMFUL, Split.SELECT).limited(limit, seed=seed),
        judge=judge,
        decoding=Decoding(max_new_tokens, batch_size),
        command=shlex.join(["safety-neurons", *sys.argv[1:]]),
        device=device,
        progress=o.bars(),
    )
    record = applied.record
    if record.refusals:
        before, after, n = (record.refusals[key] for key in ("before", "after", "n"))
        typer.echo(f"Harmful prompts refused: {before:.0%} before, {after:.0%} after (of {n:.0f}).")
    typer.echo(
        f"Written: {applied.folder} ({record.dtype}; logits differ from the live model's by "
        f"{record.difference:.1e} of the largest)"
    )
