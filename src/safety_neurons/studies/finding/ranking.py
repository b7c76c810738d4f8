"""Rankings of units on given completions, with the sums kept in the run folder."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from safety_neurons.engine import Side
from safety_neurons.environment import versions
from safety_neurons.inference import Decoding
from safety_neurons.methods import AnyRanking, RankingMethod, accumulate, scored
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress
from safety_neurons.runs import RunFolder
from safety_neurons.storage import digest
from safety_neurons.studies.finding.completions import Completions
from safety_neurons.units import Ranking, UnitSpace


@dataclass(frozen=True)
class Given:
    """What rankings are made on.

    Args:
        contrast_on: whose completions activations are contrasted on.
        harmless: the same for harmless prompts; None where no ranking reads any.
        part: names sums of a part of the prompts, or of other ones, in the run's state.
    """

    pair: ModelPair
    completions: Completions
    space: UnitSpace
    contrast_on: Side
    decoding: Decoding
    run: RunFolder
    progress: Progress
    harmless: Completions | None = None
    part: str = ""

    def ranking(self, name: str, method: AnyRanking) -> Ranking:
        """All units by a method.

        Returns:
            A ranking of that name.
        """
        summed = functools.partial(self.summed, name)
        return Ranking(name, scored(method, self.space, summed), self.space)

    def summed(self, name: str, method: RankingMethod) -> Any:
        """The sums of a method, or of a round of it, over all batches."""
        read = self.harmless if getattr(method, "on_harmless", False) else self.completions
        if read is None:
            raise ValueError(f"'{name}' reads harmless prompts, and there are none")
        most = max(int(self.decoding.batch_size * method.batch_share), 1)
        return accumulate(
            method.zero(self.space),
            read.batches(
                method.completions_of(self.contrast_on),
                replace(self.decoding, batch_size=most),
            ),
            lambda prompts, texts: method.measure(self.pair, prompts, texts, self.space),
            self.run.state(f"{name}{self.part}-{digest(method.version)[:8]}.safetensors"),
            self.progress,
            method.label,
            decided_by=(
                name,
                method.version,
                repr(self.space.blocks),
                self.pair.identity,
                str(self.pair.dtype),
                self.pair.device.type,
                versions(),
            ),
        )
