"""Sets of units that a run's rankings begin with, to act on or to keep."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from safety_neurons.errors import UserError
from safety_neurons.runs import TABLE, RunFolder
from safety_neurons.runs.models import identity_in, models_of
from safety_neurons.units import BlockKey, Ranking, UnitSet, read_means, read_table, save_set
from safety_neurons.units.table import MEANS


def rankings_of(run: RunFolder, names: Collection[str] | None = None) -> dict[str, Ranking]:
    """A run's rankings by name, the primary one first.

    Args:
        names: only these; None for all.

    Returns:
        At least one ranking.

    Raises:
        UserError: if the run has no complete `find`, or no such ranking.
    """
    rankings = read_table(run.result("find", TABLE))
    if unknown := set(names or ()) - rankings.keys():
        raise UserError(
            f"'{run.path}' has no ranking '{min(unknown)}', only {', '.join(rankings)}; choose one "
            "of them."
        )
    return {name: of for name, of in rankings.items() if names is None or name in names}


def top_units(run: RunFolder, share: float, ranking: str | None = None) -> UnitSet:
    """The first units of one of a run's rankings.

    Args:
        ranking: by default the run's primary one.

    Returns:
        A set of at least one unit.

    Raises:
        UserError: if the run has no complete `find`, or no such ranking, or the share is none.
    """
    rankings = rankings_of(run, None if ranking is None else [ranking])
    units = next(iter(rankings.values())).top(share)
    if not len(units):
        raise UserError(f"A share of {share:g} is no neuron at all; give a larger one.")
    return units


def save_top_units(
    run: RunFolder,
    out: str | Path,
    share: float,
    ranking: str | None = None,
    *,
    command: str | None = None,
) -> UnitSet:
    """Keep the first units of one of a run's rankings as an artifact; needs no model.

    Args:
        out: a folder, see `units.cards`.
        ranking: by default the run's primary one.
        command: what was typed.

    Returns:
        The set that was saved.

    Raises:
        UserError: as `top_units`, or if the run does not say what its models hold.
    """
    units = top_units(run, share, ranking)
    means = {
        name.removeprefix(MEANS): of_all[units.flat]
        for name, of_all in read_means(run.result("find", TABLE)).items()
    }
    described = run.manifest.units
    save_set(
        units,
        out,
        modules={BlockKey(b.layer, b.site): b.module for b in described.blocks}
        if described
        else {},
        models={side: model.written() for side, model in models_of(run).items()},
        means=means,
        form=identity_in(run),
        command=command,
    )
    return units
