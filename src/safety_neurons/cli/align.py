"""`safety-neurons align`: make an aligned sibling by preference training."""

from __future__ import annotations

from typing import Annotated

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import BEGINS_AGAIN, explained_when_stopped


@explained_when_stopped(BEGINS_AGAIN)
def command(
    out: o.Out,
    base: Annotated[str, typer.Option(help="The model to align.")] = "embedded:unaligned",
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=1)] = 240,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 4e-2,
    beta: Annotated[float, typer.Option(help="Strength of the preference term.")] = 0.03,
    batch_size: Annotated[int, typer.Option(help="Preference pairs a step.", min=1)] = 8,
    seed: o.Seed = 0,
    dtype: o.DType = "auto",
    device: o.Device = None,
    limit: o.Limit = None,
) -> None:
    """Train an (IA)³ adapter with which the model refuses harmful requests.

    Trains on the built-in split `train` and reports refusal rates on the split `select`.
    """
    from safety_neurons.alignment import AlignRecipe, align, evaluate

    recipe = AlignRecipe(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        beta=beta,
        seed=seed,
    )
    pair = o.load_pair(base, base, dtype=dtype, device=device)
    align(pair, out, recipe, limit=limit, progress=o.bars())
    pair = o.load_pair(f"{base}+{out}", base, dtype=dtype, device=device)
    rates = evaluate(pair, out, limit=limit, progress=o.bars())
    for name, value in rates.items():
        typer.echo(f"{name}: {value['value']:.3f} of {value['n']}")
    typer.echo(f"Adapter: {out}")
