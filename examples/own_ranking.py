"""A ranking of your own: how far apart the two models' mean activations are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from safety_neurons import (
    RANKINGS,
    Decoding,
    FindOptions,
    Kind,
    ModelPair,
    RunFolder,
    Side,
    Split,
    UnitSpace,
    builtin,
    find,
    top_units,
)
from safety_neurons.methods import ContrastSums, contrast


class MeanDifference:
    """|mean activation of the aligned model − of the unaligned one|, over completion positions."""

    version = "mean-difference-1"
    label = "Comparing means"
    batch_share = 1.0

    def completions_of(self, contrasted: Side) -> Side:
        return contrasted

    def zero(self, space: UnitSpace) -> ContrastSums:
        return ContrastSums.zero(space)

    def measure(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        space: UnitSpace,
    ) -> ContrastSums:
        return contrast(pair, prompts, completions, space)

    def scores(self, sums: ContrastSums) -> Tensor:
        return (sums.mean_aligned - sums.mean_unaligned).abs()


RANKINGS.register("mean-difference", MeanDifference())


def main(pair: ModelPair, out: Path, *, limit: int = 16) -> RunFolder:
    """Rank by it, beside the package's own; `validate` and `report` then know it, too."""
    options = FindOptions(("mean-difference", "change-score"), decoding=Decoding(20))
    run = find(pair, out, builtin(Kind.HARMFUL, Split.FIND).limited(limit), options)
    print("first neurons:", top_units(run, 0.1, "mean-difference").names[:5])
    return run


if __name__ == "__main__":
    main(ModelPair.embedded(), Path("runs/own-ranking"))
