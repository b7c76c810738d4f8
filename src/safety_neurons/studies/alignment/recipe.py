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
    """Low-rank changes of projections."""


class Modules(StrEnum):
    """Which projections a LoRA changes."""

    MLP_IN = "mlp-in"
    """Those that compute the neurons (gate and up). All that differs between the models then
    passes through neurons, so that patching all of them gives the aligned model by construction."""
    ALL = "all"
    """All attention and MLP projections: the models differ in more than neurons."""


@dataclass(frozen=True)
class AlignRecipe:
    """Everything that decides what the adapter becomes."""

    adapter: AdapterKind = AdapterKind.LORA
    modules: Modules = Modules.MLP_IN
    """Of the LoRA; (IA)³ scales the neurons themselves."""
    rank: int = 4
    """Of the LoRA; (IA)³ has none."""
    steps: int = 300
    """Optimiser steps."""
    batch_size: int = 8
    """Preference pairs a step."""
    learning_rate: float = 2e-3
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
            if not isinstance(value, str)
            and name != "seed"
            and not (value > 0 and math.isfinite(value))
        ]
        if faults:
            raise UserError(f"An alignment recipe needs positive numbers, but {', '.join(faults)}.")
        if self.learning_rate > HIGHEST_RATE:
            raise UserError(
                f"A learning rate of {self.learning_rate:g} trains nothing; give at most "
                f"{HIGHEST_RATE:g}."
            )
        require_seed(self.seed)


def recipe_for(adapter: AdapterKind, modules: Modules | None = None) -> AlignRecipe:
    """The recipe that is used if nothing else is asked for.

    Args:
        modules: of a LoRA; None for those that compute the neurons.

    Returns:
        One that was tried on the embedded model (docs/embedded-pair.md).

    Raises:
        UserError: if modules are named for an (IA)³ adapter, which has one place.
    """
    if adapter is AdapterKind.IA3:
        if modules is not None:
            raise UserError(
                "An (IA)³ adapter scales the neurons and nothing else; choose modules with "
                "--adapter lora."
            )
        return AlignRecipe(adapter, steps=240, learning_rate=4e-2)
    if modules is Modules.ALL:
        return AlignRecipe(adapter, modules, steps=240, learning_rate=1e-3)
    return AlignRecipe(adapter)
