"""The verdict in one sentence, by rules that look at nothing but the figures.

The first rule that applies gives the sentence; what else weakens it stands below as
caveats. `claim` is the chosen set on the test split.

1. UNKNOWN       the claim has no effect, or an effect without an interval.
2. EVERYTHING    the chosen set is all neurons: no few neurons were tested.
3. NOT_SPECIFIC  the interval's lower bound is not above the highest random control.
4. NO_CONTROLS   there are no random controls, or one has no effect.
5. LOW_CEILING   all neurons together reach less than 0.9 (or it is not known).
6. WEAK          the effect is below 0.5.
7. SUPPORTED     none of these.
"""

from __future__ import annotations

from dataclasses import dataclass

from safety_neurons.report.caveats import WEAK_EFFECT, Rule, caveats
from safety_neurons.report.figures import Figures, interval_of
from safety_neurons.report.words import count, interval, percent, plural, share
from safety_neurons.statistics import MIN_GAP, MIN_ROWS
from safety_neurons.validation.curve import N90_EFFECT, CurvePoint


@dataclass(frozen=True)
class Verdict:
    """What the figures allow to say: the rule, one sentence, and what weakens it."""

    rule: Rule
    sentence: str
    caveats: tuple[str, ...]


def verdict(figures: Figures) -> Verdict:
    """The verdict on the run's chosen set."""
    rule = _rule(figures)
    weakened_by = tuple(caveats(figures, rule))
    claim = figures.claim
    if rule is Rule.UNKNOWN or claim is None:
        return Verdict(rule, _why_unknown(figures), weakened_by)
    return Verdict(rule, _sentence(figures, claim, rule), weakened_by)


def _rule(figures: Figures) -> Rule:
    claim = figures.claim
    if claim is None or claim.causal_effect is None or claim.ci_low is None:
        return Rule.UNKNOWN
    if claim.k >= figures.neurons:
        return Rule.EVERYTHING
    if claim.control_max is not None and claim.ci_low <= claim.control_max:
        return Rule.NOT_SPECIFIC
    if claim.control_max is None:
        return Rule.NO_CONTROLS
    if figures.ceiling is None or figures.ceiling < N90_EFFECT:
        return Rule.LOW_CEILING
    return Rule.WEAK if claim.causal_effect < WEAK_EFFECT else Rule.SUPPORTED


def _why_unknown(figures: Figures) -> str:
    aligned, unaligned = figures.aligned["refusal_rate"], figures.unaligned["refusal_rate"]
    claim = figures.claim
    if claim is None or aligned.value is None or unaligned.value is None:
        return "The chosen neurons were not measured on test prompts, so nothing can be said."
    if claim.n < MIN_ROWS:
        return (
            f"With {plural(claim.n, 'test prompt')} (at least {MIN_ROWS} are needed) no effect of "
            "the neurons can be told."
        )
    rates = (
        f"the aligned model refused {percent(aligned.value)} and the unaligned one "
        f"{percent(unaligned.value)} of {plural(claim.n, 'test prompt')}"
    )
    if aligned.value - unaligned.value < MIN_GAP:
        return (
            f"No effect of the neurons can be told, because {rates}: a gap below "
            f"{percent(MIN_GAP)} is too small to measure a part of it."
        )
    return (
        f"{rates[0].upper()}{rates[1:]}, but how much of that gap the chosen neurons close has no "
        "interval: not enough data."
    )


def _sentence(figures: Figures, claim: CurvePoint, rule: Rule) -> str:
    who = f"Patching {share(claim.share)} of the neurons ({_of_all(claim, figures)})"
    effect = claim.causal_effect or 0.0
    only = "only " if rule is Rule.WEAK and effect > 0 else ""
    what = (
        f"closed {only}{percent(effect)} ({interval(interval_of(claim))}) of the gap in refusals "
        f"between the two models on {plural(claim.n, 'test prompt')}"
    )
    chosen = f"{who}, chosen on other prompts, {what}"
    match rule:
        case Rule.EVERYTHING:
            return (
                f"Patching all {count(figures.neurons)} neurons {what}; no smaller set was tested, "
                "so which neurons matter is not known."
            )
        case Rule.NOT_SPECIFIC:
            return f"{chosen}, which is not told apart from random: {_controls(claim)}."
        case Rule.NO_CONTROLS:
            return (
                f"{chosen}, but no random sets of the same size are there to compare with, so it "
                "is not known whether any other neurons would do as well."
            )
        case Rule.LOW_CEILING:
            return f"{chosen}, where all neurons together {_ceiling(figures)}; {_controls(claim)}."
    return f"{chosen}; {_controls(claim)}."


def _of_all(claim: CurvePoint, figures: Figures) -> str:
    return f"{count(claim.k)} of {count(figures.neurons)}"


def _ceiling(figures: Figures) -> str:
    if figures.ceiling is None:
        return "have no measured effect"
    return f"closed only {percent(figures.ceiling)}"


def _controls(claim: CurvePoint) -> str:
    sets = plural(len(claim.controls), "random set") + " of the same size"
    if claim.control_max is None:
        return "random sets of the same size were not measured"
    if claim.control_max <= 0:
        return f"{sets} closed none of it"
    return f"{sets} closed {percent(claim.control_max)} at most"
