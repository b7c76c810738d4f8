"""What every ranking method looks like: sums over batches, and a score for each unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Side
from safety_neurons.models import ModelPair
from safety_neurons.units import UnitSpace


@runtime_checkable
class RankingMethod(Protocol):
    """Gives every unit of a pair a score, the highest first, from prompts with completions.

    Its sums are a dataclass of tensors and whole numbers that can be added with `+`: they are
    saved on the way and go on after a stop, so memory does not grow with prompts.
    """

    @property
    def version(self) -> str:
        """Part of what names saved sums: change it when the same prompts would give others."""
        ...

    @property
    def label(self) -> str:
        """What a progress bar says."""
        ...

    @property
    def batch_share(self) -> float:
        """How much of a usual batch fits into memory: 1, or less where gradients are kept."""
        ...

    def completions_of(self, contrasted: Side) -> Side:
        """Whose completions it is measured on.

        Args:
            contrasted: whose completions activations are contrasted on in this run.
        """
        ...

    def zero(self, space: UnitSpace) -> Any:
        """Sums over no prompts."""
        ...

    def measure(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        space: UnitSpace,
    ) -> Any:
        """The sums of one batch of prompts and completions, as token ids."""
        ...

    def scores(self, sums: Any) -> Float[Tensor, "unit"]:
        """A score for each unit of the space."""
        ...


@runtime_checkable
class RankingInRounds(Protocol):
    """A method that reads all prompts several times, each time knowing what it found before.

    Every round is a `RankingMethod` whose `version` says what it knows, so that its saved sums
    belong to it alone. A round whose `on_harmless` is true reads harmless prompts.
    """

    @property
    def version(self) -> str:
        """Change it when the same prompts would give another ranking."""
        ...

    @property
    def reads_harmless(self) -> bool:
        """Whether any of its rounds does."""
        ...

    def completions_of(self, contrasted: Side) -> Side:
        """Whose completions all rounds are measured on; see `RankingMethod`."""
        ...

    def round_after(self, space: UnitSpace, sums: Sequence[Any]) -> RankingMethod | None:
        """The next round, given the sums of those that are done; None if all are."""
        ...

    def scores(self, sums: Sequence[Any]) -> Float[Tensor, "unit"]:
        """A score for each unit of the space, from the sums of all rounds."""
        ...


AnyRanking = RankingMethod | RankingInRounds


def scored(
    method: AnyRanking, space: UnitSpace, summed: Callable[[RankingMethod], Any]
) -> Float[Tensor, "unit"]:
    """The scores of a method, round by round where it has rounds.

    Args:
        summed: the sums of a method, or of a round, over all batches.

    Returns:
        One score a unit of `space`.
    """
    if not isinstance(method, RankingInRounds):
        return method.scores(summed(method))
    sums: list[Any] = []
    while (following := method.round_after(space, sums)) is not None:
        sums.append(summed(following))
    return method.scores(sums)
