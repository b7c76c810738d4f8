"""What weakens a claim, each in a sentence of its own, and the rules of the conclusion."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from safety_neurons.figures import bounded
from safety_neurons.report.words import count, percent, plural
from safety_neurons.runs.stability import StabilityCard
from safety_neurons.runs.stability import Verdict as StabilityVerdict
from safety_neurons.runs.summary import N90_EFFECT, CurvePoint, Summary

WEAK_EFFECT = 0.5
SMALL_N = 100
MANY_UNSCORED = 0.05
MORE_REFUSALS = 0.1
"""So many more refusals of harmless prompts than the aligned model's are worth a caveat."""


MORE_REPETITION = 0.2
"""So much more of an answer that stood in it before is worth one, too."""


class Rule(StrEnum):
    """Which rule gave the conclusion. The values head the page."""

    UNKNOWN = "Nothing can be said"
    EVERYTHING = "Only all {noun} were tested"
    NOT_SPECIFIC = "Not told apart from random {noun}"
    NO_CONTROLS = "Not compared with random {noun}"
    LOW_CEILING = "The {noun} reproduce only part of the difference"
    WEAK = "A weak effect"
    SUPPORTED = "A few {noun} reproduce the refusals, in these figures"

    def headline(self, noun: str) -> str:
        """What stands above the sentence."""
        return self.value.format(noun=noun)


def caveats(summary: Summary, rule: Rule, noun: str, card: StabilityCard | None) -> Iterator[str]:
    """In the order in which they weaken the claim."""
    claim = summary.claim
    if claim is None:
        return
    if claim.n < SMALL_N:
        yield (
            f"{plural(claim.n, 'test prompt')} are few (fewer than {SMALL_N}): this is a "
            "demonstration, not evidence."
        )
    if rule is Rule.UNKNOWN:
        return
    if claim.ci_low == claim.ci_high:
        yield (
            "The interval has no width because every prompt agrees; with so few prompts the true "
            "uncertainty is larger."
        )
    if summary.ceiling is not None and summary.ceiling < N90_EFFECT:
        yield (
            f"Patching all {noun} closes {percent(summary.ceiling)} of the gap, below "
            f"{percent(N90_EFFECT)}: the models differ in more than what makes the {noun}, and no "
            "N90 exists."
        )
    if rule in (Rule.NOT_SPECIFIC, Rule.NO_CONTROLS) and (claim.causal_effect or 0) < WEAK_EFFECT:
        yield f"The effect is below {percent(WEAK_EFFECT)}."
    yield from _unscored_caveats(claim, summary.necessity)
    yield from _necessity_caveat(claim, summary.necessity, noun)
    if card is not None and card.verdict is not StabilityVerdict.STABLE:
        yield f"On stability: {card.sentence[0].lower()}{card.sentence[1:]}"
    yield from _harmless_caveat(summary)
    yield from _repetition_caveat(summary)


def _unscored_caveats(claim: CurvePoint, removed: CurvePoint | None) -> Iterator[str]:
    if claim.unscored:
        many = claim.unscored > MANY_UNSCORED * claim.n
        much = f"More than {percent(MANY_UNSCORED)}: " if many else ""
        yield (
            f"{much}{plural(claim.unscored, 'patched answer')} of {count(claim.n)} had no verdict "
            "(empty, unreadable, or cut inside their reasoning) and count as no refusal."
        )
    if removed is not None and removed.unscored > MANY_UNSCORED * removed.n:
        yield (
            f"{plural(removed.unscored, 'answer')} of {count(removed.n)} had no verdict where "
            f"necessity was measured, more than {percent(MANY_UNSCORED)}, and count as no refusal."
        )


def _necessity_caveat(claim: CurvePoint, removed: CurvePoint | None, noun: str) -> Iterator[str]:
    """Where a set is enough, and the aligned model refuses without it."""
    if removed is None or removed.causal_effect is None or (claim.causal_effect or 0) < WEAK_EFFECT:
        return
    if removed.causal_effect < WEAK_EFFECT:
        yield (
            f"These {noun} are enough, and others are, too: taken back from the aligned model they "
            f"remove only {percent(removed.causal_effect)} of the gap."
        )


def _harmless_caveat(summary: Summary) -> Iterator[str]:
    rates = {name: row.refusal_rate.value for name, row in summary.harmless.items()}
    patched, aligned = rates.get("patched"), rates.get("aligned")
    if patched is None or aligned is None or patched - aligned < MORE_REFUSALS:
        return
    yield (
        f"The patched model also refused {percent(patched)} of the harmless prompts (the aligned "
        f"one {percent(aligned)}): part of the effect may be refusing whatever is asked."
    )


def _repetition_caveat(summary: Summary) -> Iterator[str]:
    repeated = [
        row.repetition if (row := summary.coherence.get(name)) else None
        for name in ("patched", "unaligned", "aligned")
    ]
    if any(value is None for value in repeated):
        return
    patched, *own = (value or 0.0 for value in repeated)
    without = _effect_without_loops(summary)
    if patched < max(own) + MORE_REPETITION and without is None:
        return
    yield (
        f"Patched answers repeat themselves ({percent(patched)} of their runs of three tokens "
        f"stood in them before; {percent(own[1])} of the aligned model's): the set carries the "
        "refusal, and not the rest of the aligned model's answer."
        + (f" If such refusals do not count, the effect is {without}." if without else "")
    )


def _effect_without_loops(summary: Summary) -> str | None:
    """The effect with refusals that repeat themselves counted as none, where it is lower."""
    claim, checks = summary.claim, summary.judging
    if claim is None or claim.ci_low is None or checks is None:
        return None
    found = checks.counted("looping")
    if found is None or found.causal_effect is None or found.causal_effect >= claim.ci_low:
        return None
    return bounded(found.causal_effect, found.interval)
