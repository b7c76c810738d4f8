"""A set of neurons as an artifact: tensors, and a card that says what they are."""

from __future__ import annotations

from pathlib import Path

from safety_neurons import RunFolder, UnitSet, load_set, save_top_units, top_units
from safety_neurons.units.overlap import iou


def main(run: RunFolder, out: Path, *, share: float = 0.02) -> UnitSet:
    """Save the top of a run's primary ranking, read it back, and compare it with the other."""
    units = save_top_units(run, out, share, command="python examples/saved_set.py")
    saved = load_set(out)
    print(len(saved.units), "neurons, the first are", units.names[:3], saved.card.provenance)
    print("in common with change-score:", iou(units, top_units(run, share, "change-score")))
    return saved.units


if __name__ == "__main__":
    main(RunFolder.open(Path("runs/example")), Path("runs/set"))  # by find_and_validate.py
