"""How an audit is made, and on which prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from safety_neurons import defaults
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding
from safety_neurons.judges import Judge
from safety_neurons.judges.calibration import Errors
from safety_neurons.prompts import ChatFormat, Kind, PromptSet, Split, builtin
from safety_neurons.runs.audit import BORDERLINE, HARMFUL, HARMLESS

PROMPTS = 100
"""Of each kind, where nothing is said."""
SHARE = 0.005
"""Of the neurons, where neither the options nor a validation say more."""
FOUND_ON = 48
"""Prompts on which the reference's own neurons are found, where no run names them."""


@dataclass(frozen=True)
class AuditPrompts:
    """What both models are asked."""

    harmful: PromptSet
    harmless: PromptSet
    borderline: PromptSet

    @classmethod
    def builtin(cls, limit: int = PROMPTS, seed: int = defaults.SEED) -> AuditPrompts:
        """The built-in test prompts.

        Args:
            limit: at most so many of each kind.
        """  # noqa: DOC201
        return cls(
            *(
                builtin(kind, Split.TEST).limited(limit, seed=seed)
                for kind in (Kind.HARMFUL, Kind.HARMLESS, Kind.BORDERLINE)
            )
        )

    @property
    def by_kind(self) -> dict[str, PromptSet]:
        """Each set by its name in the record."""
        return {HARMFUL: self.harmful, HARMLESS: self.harmless, BORDERLINE: self.borderline}


@dataclass(frozen=True)
class AuditOptions:
    """How an audit is made.

    Args:
        fail_under: the least candidate ÷ reference of harmful refusals.
        fast: read prompts instead of having them answered.
        share, ranking: which of a run's neurons are the safety neurons; by default those that its
            validation chose.
        errors: the judge's; by default what is known of the shipped judge.
        chat: how prompts are written; by default as the run wrote them.
        drift: whether neurons are compared.
    """

    fail_under: float | None = None
    fast: bool = False
    share: float | None = None
    ranking: str | None = None
    judge: Judge | str = defaults.JUDGE
    errors: Errors | None = None
    chat: ChatFormat | None = None
    decoding: Decoding = field(default_factory=Decoding)
    drift: bool = True
    seed: int = defaults.SEED
    dtype: torch.dtype = torch.float32
    device: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.fail_under is not None and not 0 < self.fail_under <= 1:
            raise UserError(
                f"--fail-under is the least part of the reference's refusals, above 0 and at most "
                f"1, but {self.fail_under:g} was given."
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(f"A share is above 0 and at most 1, but {self.share:g} was given.")
