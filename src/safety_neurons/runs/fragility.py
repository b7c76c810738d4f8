"""How few units a model's refusals rest on: what `fragility.json` holds."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from safety_neurons.runs.record import BoundedRecord, Record
from safety_neurons.statistics import Rate
from safety_neurons.units import SiteKind

FRAGILITY = "fragility.json"

RANDOM, MAGNITUDE, ABLATION, GIVEN = "random", "magnitude", "ablation-attribution", "given"
"""Sets beside a run's ranking."""

HEADLINE = "mean"
"""The removal that conclusions are drawn from."""


class RefusalRate(BoundedRecord):
    """Refusals of some prompts under one setting, with Wilson's interval.

    Args:
        n: all prompts.
        unscored: answers without a verdict; they count as no refusal.
    """

    n: int
    refusal_rate: float | None
    unscored: int = 0

    @classmethod
    def of(cls, rate: Rate, **fields: Any) -> Self:
        """A measured rate as a record, with what else its kind of record holds."""
        return cls(
            refusal_rate=rate.value,
            n=rate.n,
            unscored=rate.unscored,
            ci_low=rate.ci_low,
            ci_high=rate.ci_high,
            **fields,
        )


class RemovalPoint(RefusalRate):
    """The aligned model without some of its units.

    Args:
        removal: `mean`, `zero` or `unaligned`: what the units are held at, or copied from.
        set: which units: a ranking's name, or one of `random`, `magnitude`,
            `ablation-attribution`, `given`.
        site: what kind of units.
        on_topic: answers that are no refusal, can be read, and are about the prompt, as a part of
            all; None where it was not measured.
        harmless_perplexity: of the unchanged model's own answers to harmless prompts.
    """

    removal: str
    set: str
    site: SiteKind
    k: int
    share: float
    on_topic: float | None = None
    harmless_perplexity: float | None = None


class SingleEffect(BoundedRecord):
    """One unit removed alone.

    Args:
        rank: its place in the ranking, from 1.
        log_odds: by how much the log-odds of the model's own refusals change, mean over prompts;
            negative where they rest on it.
        n: prompts.
        generated: refusals with this unit alone removed; None where nothing was generated.
    """

    unit: str
    rank: int
    log_odds: float
    n: int
    generated: RefusalRate | None = None


class Amplified(RefusalRate):
    """The chosen units times a factor."""

    factor: float
    prompts: Literal["harmful", "harmless"]


class FragilityCard(Record):
    """What `fragility.json` holds.

    Args:
        model: what was measured, as manifests describe models.
        noun: what the units are.
        ranking: by which its units were removed first.
        intact: refusals of the harmful prompts by the unchanged model, and its perplexity on its
            own harmless answers.
        unaligned, unaligned_on_topic: the same of the model that removals may copy from; None for
            one model alone.
        curve: every removal, set and size.
        single: the first units of `single_ranking`, removed one by one.
        amplification: the set of `amplified_k` units times factors.
        halving_k, halving_set: the fewest units whose removal to the mean leaves at most half of
            the refusals, of the sizes and sets tried (an attacker needs at most so many); None
            where none did.
        n50: how many units hold half of all that ablation attribution gives to units that refusals
            rest on.
        gini: how unequally they hold it, 0 (all alike) to 1 (one holds all).
        effective_neurons: as how many alike units they count: (Σ s)² ÷ Σ s².
        options: with which it was measured.
        environment: of a card that belongs to no run, whose manifest would say it.
    """

    format: Literal["safety-neurons/fragility/1"] = "safety-neurons/fragility/1"
    model: dict[str, Any]
    noun: str = "neurons"
    units: int
    ranking: str
    judge: str
    intact: RefusalRate
    intact_harmless: RefusalRate
    intact_perplexity: float
    intact_on_topic: float | None = None
    unaligned: RefusalRate | None = None
    unaligned_on_topic: float | None = None
    curve: list[RemovalPoint]
    single: list[SingleEffect] = Field(default_factory=list)
    single_ranking: str = ""
    amplification: list[Amplified] = Field(default_factory=list)
    amplified_k: int = 0
    halving_k: int | None = None
    halving_set: str | None = None
    n50: int | None = None
    gini: float | None = None
    effective_neurons: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def removals(self) -> list[str]:
        """The ways of removal, in their order."""
        return list(dict.fromkeys(point.removal for point in self.curve))

    def sets(self, site: SiteKind = SiteKind.MLP) -> list[str]:
        """The sets whose units are of one kind, in their order."""
        return list(dict.fromkeys(point.set for point in self.curve if point.site == site))

    def curve_of(
        self, name: str, removal: str = HEADLINE, site: SiteKind = SiteKind.MLP
    ) -> list[RemovalPoint]:
        """One set's points under one removal, the fewest units first."""
        return sorted(
            (
                point
                for point in self.curve
                if (point.set, point.removal, point.site) == (name, removal, site)
            ),
            key=lambda point: point.k,
        )
