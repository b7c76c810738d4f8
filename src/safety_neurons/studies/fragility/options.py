"""What a fragility study takes away, how much of it, and on which prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from safety_neurons import defaults
from safety_neurons.errors import UserError, require_seed
from safety_neurons.inference import Decoding
from safety_neurons.prompts import Kind, PromptSet, Split, builtin, refuse_overlap

SHARES = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1)
"""Fractions of all units that are removed."""
FACTORS = (1.25, 1.5, 2.0, 3.0)
"""By what the chosen units are multiplied."""
MAX_NEW_TOKENS = 20
"""Where an answer is cut: whether a model refuses shows early, and there are thousands."""
SINGLES, GENERATED = 50, 8
"""Units removed one by one, and of them those under which answers are written."""
SINGLE_PROMPTS = 16
"""Refusals whose log-odds are measured with each single unit removed."""
PERPLEXITY_PROMPTS = 8
"""Harmless answers whose perplexity is measured under every removal."""


@dataclass(frozen=True)
class FragilityOptions:
    """What is removed and amplified."""

    shares: tuple[float, ...] = SHARES
    """Fractions of all units, each at least one unit."""
    factors: tuple[float, ...] = FACTORS
    singles: int = SINGLES
    generated: int = GENERATED
    amplified_share: float | None = None
    """How many are amplified; by default as many as the run's validation chose, else 0.5 %."""
    attention: bool = True
    """Whether attention's output channels are removed, too."""
    decoding: Decoding = field(default_factory=lambda: Decoding(MAX_NEW_TOKENS))
    seed: int = defaults.SEED

    def __post_init__(self) -> None:
        require_seed(self.seed)
        amplified = () if self.amplified_share is None else (self.amplified_share,)
        given = (*self.shares, *amplified)
        if not self.shares or not all(0 < share <= 1 for share in given):
            raise UserError(
                "Shares are fractions of all neurons, above 0 and up to 1 (0.01 is 1 %), but "
                f"{', '.join(f'{share:g}' for share in given) or 'none'} was given."
            )
        if not all(math.isfinite(factor) and factor > 1 for factor in self.factors):
            raise UserError(
                "Factors above 1 amplify, but "
                f"{', '.join(f'{factor:g}' for factor in self.factors)} was given."
            )
        if self.singles < 0 or self.generated < 0:
            raise UserError("Single units are counted from 0; give a number of 0 or more.")


@dataclass(frozen=True)
class FragilityPrompts:
    """Prompts apart from each other.

    Args:
        found: harmful ones, whose refusals say which units they rest on.
        tested: harmful ones that refusals are counted on.
        means: harmless ones over which activations are averaged.
        harmless: harmless ones that refusals and perplexity are counted on.
    """

    found: PromptSet
    tested: PromptSet
    means: PromptSet
    harmless: PromptSet

    def __post_init__(self) -> None:
        refuse_overlap(self.found, self.tested)
        refuse_overlap(self.means, self.harmless)

    @classmethod
    def builtin(
        cls,
        limit: int | None = None,
        *,
        found: PromptSet | None = None,
        seed: int = defaults.SEED,
    ) -> FragilityPrompts:
        """Those that come with this package, `test` for figures and `find` for the rest.

        Args:
            limit: at most so many of each.
            found: others than the built-in ones.

        Returns:
            Four sets.
        """
        return cls(
            (found or builtin(Kind.HARMFUL, Split.FIND)).limited(limit, seed=seed),
            builtin(Kind.HARMFUL, Split.TEST).limited(limit, seed=seed),
            builtin(Kind.HARMLESS, Split.FIND).limited(limit, seed=seed),
            builtin(Kind.HARMLESS, Split.TEST).limited(limit, seed=seed),
        )

    def describe(self) -> dict[str, Any]:
        """For manifests."""
        return {name: getattr(self, name).describe() for name in self.__dataclass_fields__}
