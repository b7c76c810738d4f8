"""The conclusion in one sentence, by rules that look at nothing but the summary.

The first rule that applies gives the sentence; what else weakens it stands below as
caveats. `claim` is the chosen set on the test split.

1. UNKNOWN       the claim has no effect, or an effect without an interval.
2. EVERYTHING    the chosen set is all units: no few were tested.
3. NOT_SPECIFIC  the interval's lower bound is not above the highest random control.
4. NO_CONTROLS   there are no random controls, or one has no effect.
5. LOW_CEILING   all units together reach less than 0.9 (or it is not known).
6. WEAK          the effect is below 0.5.
7. SUPPORTED     none of these.
"""

from __future__ import annotations

from dataclasses import dataclass

from safety_neurons.report.caveats import SMALL_N, WEAK_EFFECT, Rule, caveats
from safety_neurons.report.words import count, interval, percent, plural, share
from safety_neurons.runs.stability import StabilityCard
from safety_neurons.runs.summary import N90_EFFECT, CurvePoint, Summary
from safety_neurons.statistics import MIN_GAP, MIN_ROWS


@dataclass(frozen=True)
class Conclusion:
    """What the figures allow to say: the rule, one sentence, and what weakens it."""

    rule: Rule
    headline: str
    sentence: str
    caveats: tuple[str, ...]


def conclusion(summary: Summary, noun: str, card: StabilityCard | None = None) -> Conclusion:
    """What follows from the figures of the run's chosen set, and from its stability if known."""
    rule, claim = _rule(summary), summary.claim
    if rule is Rule.UNKNOWN or claim is None:
        sentence = _why_unknown(summary, noun)
    else:
        sentence = _sentence(summary, claim, rule, noun)
    weakened_by = tuple(caveats(summary, rule, noun, card))
    headline = rule.headline(noun)
    if rule is Rule.SUPPORTED and claim is not None and claim.n < SMALL_N:
        headline = f"A demonstration: {headline[0].lower()}{headline[1:]}"
    return Conclusion(rule, headline, sentence, weakened_by)


def _rule(summary: Summary) -> Rule:
    claim = summary.claim
    if claim is None or claim.causal_effect is None or claim.ci_low is None:
        return Rule.UNKNOWN
    if claim.k >= summary.units:
        return Rule.EVERYTHING
    if claim.control_max is not None and claim.ci_low <= claim.control_max:
        return Rule.NOT_SPECIFIC
    if claim.control_max is None:
        return Rule.NO_CONTROLS
    if summary.ceiling is None or summary.ceiling < N90_EFFECT:
        return Rule.LOW_CEILING
    return Rule.WEAK if claim.causal_effect < WEAK_EFFECT else Rule.SUPPORTED


def _why_unknown(summary: Summary, noun: str) -> str:
    aligned, unaligned = (
        side.details["refusal_rate"].value for side in (summary.aligned, summary.unaligned)
    )
    claim = summary.claim
    if claim is None or aligned is None or unaligned is None:
        return f"The chosen {noun} were not measured on test prompts, so nothing can be said."
    if claim.n < MIN_ROWS:
        return (
            f"With {plural(claim.n, 'test prompt')} (at least {MIN_ROWS} are needed) no effect of "
            f"the {noun} can be told."
        )
    rates = (
        f"the aligned model refused {percent(aligned)} and the unaligned one "
        f"{percent(unaligned)} of {plural(claim.n, 'test prompt')}"
    )
    if aligned - unaligned < MIN_GAP:
        return (
            f"No effect of the {noun} can be told, because {rates}: a gap below "
            f"{percent(MIN_GAP)} is too small to measure a part of it."
        )
    return (
        f"{rates[0].upper()}{rates[1:]}, but how much of that gap the chosen {noun} close has no "
        "interval: not enough data."
    )


def _sentence(summary: Summary, claim: CurvePoint, rule: Rule, noun: str) -> str:
    who = f"Patching {share(claim.share)} of the {noun} ({_of_all(claim, summary)})"
    effect = claim.causal_effect or 0.0
    only = "only " if rule is Rule.WEAK and effect > 0 else ""
    what = (
        f"closed {only}{percent(effect)} ({interval(claim.interval)}) of the gap in refusals "
        f"between the two models on {plural(claim.n, 'test prompt')}{_rates(summary, claim)}"
    )
    chosen = f"{who}, chosen on other prompts, {what}"
    match rule:
        case Rule.EVERYTHING:
            return (
                f"Patching all {count(summary.units)} {noun} {what}; no smaller set was tested, "
                f"so which {noun} matter is not known."
            )
        case Rule.NOT_SPECIFIC:
            return f"{chosen}, which is not told apart from random: {_controls(claim)}."
        case Rule.NO_CONTROLS:
            return (
                f"{chosen}, but no random sets of the same size are there to compare with, so it "
                f"is not known whether any other {noun} would do as well."
            )
        case Rule.LOW_CEILING:
            return f"{chosen}, where all {noun} together {_ceiling(summary)}; {_controls(claim)}."
    return f"{chosen}; {_controls(claim)}."


def _rates(summary: Summary, claim: CurvePoint) -> str:
    unaligned, aligned = summary.unaligned.refusal_rate, summary.aligned.refusal_rate
    if claim.refusal_rate is None or unaligned is None or aligned is None:
        return ""
    after = percent(claim.refusal_rate)
    return f" (refusals {percent(unaligned)} before, {after} after, aligned {percent(aligned)})"


def _of_all(claim: CurvePoint, summary: Summary) -> str:
    return f"{count(claim.k)} of {count(summary.units)}"


def _ceiling(summary: Summary) -> str:
    if summary.ceiling is None:
        return "have no measured effect"
    return f"closed only {percent(summary.ceiling)}"


def _controls(claim: CurvePoint) -> str:
    sets = plural(len(claim.controls), "random set") + " of the same size"
    if claim.control_max is None:
        return "random sets of the same size were not measured"
    if claim.control_max <= 0:
        return f"{sets} closed none of it"
    return f"{sets} closed {percent(claim.control_max)} at most"
