"""What an explanation looks at: how large a set, how many controls, and which prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from safety_neurons import defaults
from safety_neurons.errors import UserError, require_seed
from safety_neurons.inference import Decoding
from safety_neurons.methods.detection import LEAST
from safety_neurons.prompts import Kind, PromptSet, Split, builtin, load_prompts, refuse_overlap
from safety_neurons.studies.explanation.corpus import TOKENS
from safety_neurons.studies.validation.options import TestPrompts

SHARE = 0.02
"""Of all units, where no validation chose a set."""
MAX_NEW_TOKENS = 20
"""Where an answer is cut: whether a model refuses shows early."""
EXACT = 64
"""Units of the set held one by one, and as many random ones."""
CONTROLS = 2
"""Random sets beside each intervention."""
LIMIT = 48
"""Prompts of each set."""
PAGES = 20
"""Units of the set that are looked at closely."""


@dataclass(frozen=True)
class ExplainOptions:
    """What is explained, beside the prompts."""

    share: float | None = None
    """Of all units; by default what the run's validation chose, else SHARE."""
    controls: int = CONTROLS
    exact: int = EXACT
    pages: int = PAGES
    """Units of the set, the first by rank, that are looked at closely."""
    tokens: int = TOKENS
    """The most that each model reads for their examples."""
    decoding: Decoding = field(default_factory=lambda: Decoding(MAX_NEW_TOKENS))
    seed: int = defaults.SEED

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(
                "A share is a fraction of all neurons, above 0 and up to 1 (0.02 is 2 %), but "
                f"{self.share:g} was given."
            )
        if min(self.controls, self.exact, self.pages) < 0:
            raise UserError("Random sets, single units and pages are counted from 0.")


@dataclass(frozen=True)
class ExplanationPrompts:
    """Prompts apart from each other.

    Args:
        found: harmful ones; with `found_harmless` they give means, directions and openings.
        select: harmful ones on which the direction is chosen and openings are tried.
        test: harmful ones that everything is measured on, beside `harmless`.
        found_harmless, harmless: the same of harmless ones, best matched in topic.

    Raises:
        UserError: with fewer than LEAST of any, or if a tested prompt is nearly one of those that
            something was found or chosen on.
    """

    found: PromptSet
    found_harmless: PromptSet
    select: PromptSet
    test: PromptSet
    harmless: PromptSet

    def __post_init__(self) -> None:
        for name, prompts in vars(self).items():
            if len(prompts) < LEAST:
                raise UserError(
                    f"'{prompts.name}' has {len(prompts)} prompt for '{name}', and {LEAST} are the "
                    "least that say anything of a kind; give more prompts."
                )
        refuse_overlap(self.found, self.test)
        refuse_overlap(self.select, self.test)
        refuse_overlap(self.found_harmless, self.harmless)

    @classmethod
    def builtin(
        cls,
        limit: int | None = LIMIT,
        *,
        found: PromptSet | None = None,
        seed: int = defaults.SEED,
    ) -> ExplanationPrompts:
        """Those that come with this package, harmless ones matched one to one.

        Args:
            limit: at most so many of each.
            found: others than the built-in ones.

        Returns:
            Five sets.
        """

        def drawn(kind: Kind, split: Split) -> PromptSet:
            # The same places of both kinds: a match stands where its prompt does.
            return builtin(kind, split).limited(limit, seed=seed)

        return cls(
            drawn(Kind.HARMFUL, Split.FIND) if found is None else found.limited(limit, seed=seed),
            drawn(Kind.HARMLESS, Split.FIND),
            drawn(Kind.HARMFUL, Split.SELECT),
            drawn(Kind.HARMFUL, Split.TEST),
            drawn(Kind.HARMLESS, Split.TEST),
        )

    @classmethod
    def of_files(
        cls,
        harmful: str,
        harmless: str,
        limit: int | None = LIMIT,
        *,
        found: PromptSet,
        column: str = "prompt",
        seed: int = defaults.SEED,
    ) -> ExplanationPrompts:
        """Prompts of two files.

        Args:
            harmful: its splits `select` and `test`, or parts drawn with `seed`, as in `validate`.
            harmless: every second one is to find on, the others are tested.
            found: the prompts that the run was found on.

        Returns:
            Five sets.

        Raises:
            UserError: if a file cannot be read, or holds too few prompts.
        """
        tested = TestPrompts.of_files(harmful, column=column, seed=seed)
        rows = load_prompts(harmless, column=column)
        if len(rows) < 2:
            raise UserError(f"'{harmless}' has one prompt; give harmless prompts for two parts.")
        first, second = (PromptSet(rows.name, rows.prompts[i::2]) for i in (0, 1))
        sets = (found, first, tested.select, tested.test, second)
        return cls(*(prompts.limited(limit, seed=seed) for prompts in sets))

    def describe(self) -> dict[str, Any]:
        """For manifests."""
        return {name: getattr(self, name).describe() for name in self.__dataclass_fields__}
