"""`safety-neurons stability`: does a run's chosen set remain when something else is changed?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    run: o.Run,
    others: Annotated[
        list[Path] | None,
        typer.Argument(help="Validated runs to compare with: other seeds, prompts, pairs."),
    ] = None,
    harmless: Annotated[
        str | None,
        typer.Option(help="Harmless prompts, for units of ordinary answers; built-in if left out."),
    ] = None,
    prompt_column: o.PromptColumn = "prompt",
    judge: Annotated[
        str, typer.Option(help="The judge that the run was validated with, the first of several.")
    ] = defaults.JUDGE,
    controls: o.Controls = defaults.CONTROLS,
    limit: Annotated[
        int | None, typer.Option(help="At most so many harmless prompts.", min=1)
    ] = None,
    seed: o.Seed = defaults.SEED,
    device: o.Device = None,
) -> None:
    """Say whether a run's chosen neurons are stable, fragile or noise, or that it cannot be told.

    Ranks again on halves of the prompts and on the other model's completions, and patches sets of
    other runs, random ones and ones of the same magnitude. The card becomes part of the report.
    """
    from safety_neurons.prompts import Kind, Split, builtin, load_prompts
    from safety_neurons.runs import RunFolder, read_summary
    from safety_neurons.studies.stability import stability

    judging = o.judging_refusals(judge)
    folder = RunFolder.open(run)
    compared = [RunFolder.open(other) for other in others or ()]
    for each in (folder, *compared):
        read_summary(each)
    ordinary = (
        builtin(Kind.HARMLESS, Split.FIND)
        if harmless is None
        else load_prompts(harmless, column=prompt_column)
    )
    pair = o.reload_pair(folder, dtype=o.FLOAT32, device=device)
    card = stability(
        folder,
        pair,
        compared,
        harmless=ordinary.limited(limit, seed=seed),
        judge=judging,
        controls=controls,
        seed=seed,
        progress=o.bars(),
    )
    typer.echo(card.sentence)
    for overlap in card.overlaps:
        shared = "–" if overlap.iou is None else f"{overlap.iou:.2f}"
        chance = "–" if overlap.chance is None else f"{overlap.chance:.3f}"
        typer.echo(f"  {overlap.changed}: {overlap.against}: IoU {shared} (by chance {chance})")
    typer.echo(f"Next: safety-neurons report {run}")
