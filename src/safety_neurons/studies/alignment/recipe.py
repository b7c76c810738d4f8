"""What decides which adapter comes out of the training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum

from safety_neurons.errors import UserError, require_seed

HIGHEST_RATE = 10.0
"""AdamW moves every parameter by about the rate in each step."""


class AdapterKind(StrEnum):
    """What is trained."""

    IA3 = "ia3"
    """One scale for each neuron, on the input of the down projections."""
    LORA = "lora"
    """Low-rank changes of all attention and MLP projections."""


@dataclass(frozen=True)
class AlignRecipe:
    """Everything that decides what the adapter becomes."""

    adapter: AdapterKind = AdapterKind.IA3
    rank: int = 4
    """Of the LoRA; (IA)³ has none."""
    steps: int = 240
    """Optimiser steps."""
    batch_size: int = 8
    """Preference pairs a step."""
    learning_rate: float = 4e-2
    """Peak rate of AdamW; it falls linearly to 0 after a tenth of warm-up."""
    beta: float = 0.03
    """How strongly the preference term is held to the unaligned model."""
    likelihood_weight: float = 1.0
    """Weight of the likelihood of chosen answers beside the preference term."""
    refusals_per_prompt: int = 3
    """Differently worded refusals of each harmful request."""
    keeps_per_prompt: int = 1
    """Times that each own harmless answer is preferred to a refusal."""
    answer_tokens: int = 40
    """Where the model's own answers are cut."""
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}"
            for name, value in asdict(self).items()
            if name not in ("seed", "adapter") and not (value > 0 and math.isfinite(value))
        ]
        if faults:
            raise UserError(f"An alignment recipe needs positive numbers, but {', '.join(faults)}.")
        if self.learning_rate > HIGHEST_RATE:
            raise UserError(
                f"A learning rate of {self.learning_rate:g} trains nothing; give at most "
                f"{HIGHEST_RATE:g}."
            )
        require_seed(self.seed)


RECIPES = {
    AdapterKind.IA3: AlignRecipe(),
    AdapterKind.LORA: AlignRecipe(AdapterKind.LORA, learning_rate=1e-3),
}
"""The recipe of each kind of adapter that is used if nothing else is asked for."""
