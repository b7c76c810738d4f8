"""Whether a run's chosen neurons remain: halves of the prompts, another run's set, controls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_neurons import (
    Kind,
    ModelPair,
    RunFolder,
    Split,
    StabilityCard,
    builtin,
    stability,
)


def main(
    pair: ModelPair, run: Path, others: Sequence[Path] = (), *, limit: int = 32
) -> StabilityCard:
    """The card of a validated run of `pair`, beside other validated runs."""
    card = stability(
        RunFolder.open(run),
        pair,
        [RunFolder.open(other) for other in others],
        harmless=builtin(Kind.HARMLESS, Split.FIND).limited(limit),
    )
    for overlap in card.overlaps:
        print(f"{overlap.changed}, {overlap.against}: {overlap.iou} (by chance {overlap.chance})")
    print(card.sentence)
    return card


if __name__ == "__main__":
    main(ModelPair.embedded(), Path("runs/example"))
