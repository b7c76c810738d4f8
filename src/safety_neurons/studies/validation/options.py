"""What a validation tests: shares, controls, and the prompts that it gives to the models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from safety_neurons import defaults
from safety_neurons.errors import UserError, require_seed
from safety_neurons.inference import Decoding
from safety_neurons.prompts import (
    Kind,
    PromptSet,
    Split,
    builtin,
    load_prompts,
    parts_of,
)

LENGTH_PROMPTS = 50
"""Answers of other lengths are compared on so many prompts."""


@dataclass(frozen=True)
class ValidateOptions:
    """What is tested, beside the prompts."""

    shares: tuple[float, ...] = defaults.SHARES
    """Fractions of all units; share 1, the ceiling, is always tested."""
    controls: int = defaults.CONTROLS
    """Matched random sets at each share of the test split."""
    control_shares: tuple[float, ...] | None = None
    """The shares at which random sets are drawn; None for all of them."""
    rankings: tuple[str, ...] | None = None
    """Those of the run that are tested; None for all of them."""
    control_rankings: tuple[str, ...] | None = None
    """The tested rankings that random sets are drawn beside; None for all of them."""
    strengths: tuple[float, ...] = ()
    """How far of the way to the donor's values the chosen set is moved, one by one, on test."""
    lengths: tuple[int, ...] = ()
    """Tokens after which answers are cut and judged again, on the first LENGTH_PROMPTS of test."""
    decoding: Decoding = field(default_factory=Decoding)
    seed: int = defaults.SEED
    """Of the random sets and the bootstrap."""

    def __post_init__(self) -> None:
        if short := [length for length in self.lengths if length < 1]:
            raise UserError(f"Answers have 1 token or more, but a length of {short[0]} was given.")
        if self.rankings is not None and not self.rankings:
            raise UserError("No ranking was given to test; name one, or leave all of them.")
        untested = set(self.control_rankings or ()) - set(self.rankings or ())
        if self.rankings is not None and untested:
            raise UserError(
                f"Random sets were asked for beside '{min(untested)}', which is no tested ranking; "
                "add it to the rankings."
            )
        unknown = set(self.control_shares or ()) - set(self.tested_shares)
        if unknown:
            raise UserError(
                f"Random sets were asked for at {', '.join(f'{s:g}' for s in sorted(unknown))}, "
                "which is no tested share; add it to the shares."
            )
        wrong = [s for s in self.strengths if not (s >= 0 and math.isfinite(s))]
        if wrong:
            raise UserError(
                "Strengths are 0 or more (0 changes nothing, 1 copies the donor's values), but "
                f"{', '.join(f'{strength:g}' for strength in wrong)} was given."
            )
        if self.controls < 0:
            raise UserError(f"Random sets are counted from 0, but {self.controls} was given.")
        require_seed(self.seed)
        wrong = [share for share in self.shares if not 0 < share <= 1]
        if wrong or not self.shares:
            raise UserError(
                f"Shares are fractions of all neurons, above 0 and up to 1 (0.05 is 5 %), but "
                f"{', '.join(f'{share:g}' for share in wrong) or 'none'} was given."
            )

    @property
    def tested_shares(self) -> list[float]:
        """The shares in order, with the ceiling."""
        return sorted({*self.shares, 1.0})

    def controls_at(self, ranking: str, share: float) -> int:
        """How many random sets a ranking's share of the test split has."""
        here = self.control_shares is None or share in self.control_shares
        beside = self.control_rankings is None or ranking in self.control_rankings
        return self.controls if here and beside else 0


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
        """The prompts that come with this package."""
        return cls(
            builtin(Kind.HARMFUL, Split.SELECT),
            builtin(Kind.HARMFUL, Split.TEST),
            builtin(Kind.HARMLESS, Split.TEST),
            builtin(Kind.BORDERLINE, Split.TEST),
        )

    @classmethod
    def of_files(
        cls,
        harmful: str | None = None,
        harmless: str | None = None,
        borderline: str | None = None,
        *,
        column: str = "prompt",
        seed: int = defaults.SEED,
    ) -> TestPrompts:
        """The built-in prompts, with files in the place of those that are named.

        Args:
            harmful: its own splits `select` and `test` are used where it has both; else a third
                of its rows, drawn with `seed`, is to choose on, without those that are nearly the
                same as one of the rest.

        Returns:
            Four prompt sets.

        Raises:
            UserError: if a file cannot be read, or holds too few prompts.
        """
        chosen = cls.builtin()
        if harmful is not None:
            shares = {"select": 1 / 3, "test": 2 / 3}
            select, test = parts_of(harmful, shares, column=column, seed=seed)
            chosen = replace(chosen, select=select, test=test)
        if harmless is not None:
            chosen = replace(chosen, harmless=load_prompts(harmless, column=column))
        if borderline is not None:
            chosen = replace(chosen, borderline=load_prompts(borderline, column=column))
        return chosen

    def limited(self, limit: int | None, *, seed: int = defaults.SEED) -> TestPrompts:
        """At most `limit` prompts a set, and half as many to choose on."""
        half = None if limit is None else max(limit // 2, 1)
        return TestPrompts(
            self.select.limited(half, seed=seed),
            *(p.limited(limit, seed=seed) for p in (self.test, self.harmless, self.borderline)),
        )

    def describe(self) -> dict[str, Any]:
        """For manifests: each set's name, size and digest."""
        return {name: prompts.describe() for name, prompts in vars(self).items()}
