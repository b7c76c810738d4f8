"""What a validation tests: shares, controls, and the prompts it asks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from safety_neurons.errors import UserError, require_seed
from safety_neurons.generation import Decoding
from safety_neurons.prompts import Kind, PromptSet, Split, builtin

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0)


@dataclass(frozen=True)
class ValidateOptions:
    """What is tested, beside the prompts."""

    shares: tuple[float, ...] = SHARES
    """Fractions of all neurons; share 1, the ceiling, is always tested."""
    controls: int = 3
    """Matched random sets at each share of the test split."""
    strengths: tuple[float, ...] = ()
    """How far of the way to the donor's values the chosen set is moved, one by one, on test."""
    decoding: Decoding = field(default_factory=Decoding)
    seed: int = 0
    """Of the random sets and the bootstrap."""

    def __post_init__(self) -> None:
        wrong = [s for s in self.strengths if not (s >= 0 and math.isfinite(s))]
        if wrong:
            raise UserError(
                "Strengths are 0 or more (0 changes nothing, 1 copies the donor's values), but "
                f"{', '.join(f'{strength:g}' for strength in wrong)} was given."
            )
        if self.controls < 0:
            raise UserError(f"Random sets are counted from 0, but {self.controls} were asked for.")
        require_seed(self.seed)
        wrong = [share for share in self.shares if not 0 < share <= 1]
        if wrong or not self.shares:
            raise UserError(
                f"Shares are fractions of all neurons, above 0 and up to 1 (0.05 is 5 %), but "
                f"{', '.join(f'{share:g}' for share in wrong) or 'none'} was given."
            )

    @property
    def tested_shares(self) -> list[float]:
        return sorted({*self.shares, 1.0})


@dataclass(frozen=True)
class TestPrompts:
    """The prompts of a validation.

    Args:
        select: harmful prompts that the ranking and the share are chosen on.
        test: harmful prompts that claims are made on.
        harmless, borderline: what should not be refused.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    select: PromptSet
    test: PromptSet
    harmless: PromptSet
    borderline: PromptSet

    @classmethod
    def builtin(cls) -> TestPrompts:
        return cls(
            builtin(Kind.HARMFUL, Split.SELECT),
            builtin(Kind.HARMFUL, Split.TEST),
            builtin(Kind.HARMLESS, Split.TEST),
            builtin(Kind.BORDERLINE, Split.TEST),
        )

    def limited(self, limit: int | None, *, seed: int = 0) -> TestPrompts:
        """At most `limit` prompts a set, and half as many to choose on."""
        half = None if limit is None else max(limit // 2, 1)
        return TestPrompts(
            self.select.limited(half, seed=seed),
            *(p.limited(limit, seed=seed) for p in (self.test, self.harmless, self.borderline)),
        )

    def describe(self) -> dict[str, Any]:
        return {
            name: {"name": p.name, "n": len(p), "sha256": p.digest}
            for name, p in vars(self).items()
        }
