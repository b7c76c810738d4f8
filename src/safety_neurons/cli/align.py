"""`safety-neurons align`: make an aligned sibling by preference training."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.figures import percent


class AdapterName(StrEnum):
    """What is trained; `studies.alignment.AdapterKind`, which takes seconds to import."""

    IA3 = "ia3"
    LORA = "lora"


class ModulesName(StrEnum):
    """Which projections a LoRA changes; `studies.alignment.Modules`, likewise."""

    MLP_IN = "mlp-in"
    ALL = "all"


@explained
def command(
    out: o.Out,
    base: Annotated[str, typer.Option(help="The model to align.")] = "embedded:unaligned",
    adapter: Annotated[AdapterName, typer.Option(help="What is trained.")] = AdapterName.LORA,
    modules: Annotated[
        ModulesName | None,
        typer.Option(help="Which projections a LoRA changes; mlp-in if left out."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    beta: Annotated[float | None, typer.Option(help="Strength of the preference term.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Preference pairs a step.", min=1)] = None,
    seed: o.Seed = defaults.SEED,
    dtype: o.DType = o.AUTO,
    device: o.Device = None,
    limit: o.Limit = None,
) -> None:
    """Train an adapter with which the model refuses harmful requests.

    A LoRA changes the projections that compute the neurons (--modules mlp-in: gate and up), or all
    attention and MLP projections (all); an (IA)³ adapter has one scale a neuron. Options left out
    take the recipe of that kind. Trains on the built-in split `train` and reports refusal rates on
    the split `select`. A stopped training goes on where it was.
    """
    from safety_neurons.models import LoadedModel
    from safety_neurons.storage import require_place
    from safety_neurons.studies.alignment import (
        AdapterKind,
        Modules,
        align,
        evaluate,
        recipe_for,
    )

    given: dict[str, Any] = {
        "steps": steps,
        "learning_rate": learning_rate,
        "beta": beta,
        "batch_size": batch_size,
    }
    recipe = replace(
        recipe_for(AdapterKind(adapter), Modules(modules) if modules else None),
        seed=seed,
        **{name: value for name, value in given.items() if value is not None},
    )
    require_place(out, folder=True)
    o.quiet_libraries()
    model = LoadedModel.load(base, dtype=o.dtype_of(dtype, device), device=device)
    align(model, out, recipe, limit=limit, progress=o.bars())
    del model
    pair = o.load_pair(f"{base}+{out}", base, dtype=dtype, device=device)
    rates = evaluate(pair, out, limit=limit, progress=o.bars())
    for name, value in rates.items():
        typer.echo(f"{name}: {percent(value['value'])} of {value['n']}")
    typer.echo(f"Adapter: {out}")
