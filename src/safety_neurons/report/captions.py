"""Sentences beside the figures, made from the figures."""

from __future__ import annotations

from collections.abc import Sequence

from safety_neurons.report.dose import dose_points
from safety_neurons.report.words import NBSP, count, interval, percent, plural, share
from safety_neurons.runs.summary import N90_EFFECT, CurvePoint, Summary

_SETTINGS = {
    "unaligned": "unaligned model",
    "aligned": "aligned model",
    "patched": "unaligned, chosen {noun} patched",
    "random": "unaligned, matched random set patched",
    "removed": "aligned, unaligned values of the chosen {noun}",
}


def setting_name(setting: str, noun: str) -> str:
    """Who answers under a setting."""
    return _SETTINGS[setting].format(noun=noun)


def necessity_sentence(summary: Summary, noun: str) -> str:
    """The other direction: unaligned values in the aligned model."""
    point = summary.necessity
    if point is None or point.causal_effect is None:
        return "Necessity (the other direction): not enough data."
    return (
        f"The other way round, giving the aligned model the unaligned values of the same {noun} "
        f"removed {percent(point.causal_effect)} ({interval(point.interval)}) of the gap; "
        f"{_removed_by_controls(point)}."
    )


def _removed_by_controls(point: CurvePoint) -> str:
    if point.control_max is None:
        return "random sets of the same size were not measured"
    most = "none of it" if point.control_max <= 0 else f"{percent(point.control_max)} at most"
    return f"{plural(len(point.controls), 'random set')} of the same size removed {most}"


def chosen_sentence(summary: Summary) -> str:
    """How the set that the conclusion is about was chosen."""
    chosen, claim = summary.chosen, summary.claim
    on_select = next((p for p in summary.on("select") if summary.is_chosen(p)), None)
    ringed = " (ringed)" if claim and claim.causal_effect is not None else ""
    n = plural(on_select.n, "select prompt") if on_select else "the select prompts"
    return (
        f"The chosen set{ringed} is the first {share(chosen.share)} ({count(chosen.k)}) of the "
        f"{chosen.ranking} ranking. It was chosen on {n}, none of them among the test prompts: "
        f"{_why_chosen(summary, on_select)}"
    )


def _why_chosen(summary: Summary, on_select: CurvePoint | None) -> str:
    if on_select is None or on_select.causal_effect is None:
        return "there it had no measured effect, so the choice has no ground."
    there = f"{percent(on_select.causal_effect)} there, {interval(on_select.interval)}"
    if summary.reached_on_select():
        return (
            f"it has the smallest share, over all rankings, from which the effect stays at or "
            f"above {percent(N90_EFFECT)} ({there})."
        )
    return (
        f"no smaller share than 100{NBSP}% kept an effect of {percent(N90_EFFECT)}, and this set "
        f"had the largest ({there})."
    )


def why_no_controls(point: CurvePoint, noun: str) -> str:
    """Why no random sets stand beside a point."""
    if point.split == "select":
        return "not drawn on select"
    if point.controls_asked is None:
        return f"not drawn, or too few {noun} left"
    return f"too few {noun} left" if point.controls_asked else "not drawn here"


def even_sentence(even: Sequence[float]) -> str:
    """What part of an evenly spread set one layer would have."""
    least, most = percent(min(even)), percent(max(even))
    return least if least == most else f"{least} to {most}"


def harmless_sentence(summary: Summary) -> str:
    """How many harmless prompts are refused under the patch, and without it."""
    row = summary.harmless.get("patched")
    if row is None or row.refusal_rate.value is None:
        return "What the patch does to harmless prompts: not enough data."
    own = (summary.unaligned.over_refusal_rate, summary.aligned.over_refusal_rate)
    return (
        f"Under the patch the unaligned model refuses {percent(row.refusal_rate.value)} of the "
        f"harmless prompts ({interval(row.refusal_rate.interval)}); without it {percent(own[0])}. "
        f"The aligned model refuses {percent(own[1])}."
    )


def power_sentence(summary: Summary) -> str:
    """Whether the test prompts are enough to tell a strong effect from a weaker one."""
    needed, claim = summary.needed, summary.claim
    if needed is None or claim is None:
        return "How many test prompts it takes is not known."
    enough = "enough" if claim.n >= needed else "too few for that"
    return (
        f"On such a pair about {plural(needed, 'test prompt')} tell an effect of {percent(0.9)} "
        f"from one of {percent(0.8)} (95{NBSP}% confidence, 80{NBSP}% power); the "
        f"{count(claim.n)} here are {enough}."
    )


def categories_sentence(summary: Summary) -> str:
    """Between which bounds the effects of the categories lie."""
    told = [r for r in summary.by_category if r.causal_effect is not None]
    effects = [r.causal_effect for r in told if r.causal_effect is not None]
    least, most = min(r.n for r in told), max(r.n for r in told)
    sizes = count(least) if least == most else f"{count(least)} to {count(most)}"
    return (
        f"The effect lies between {percent(min(effects))} and {percent(max(effects))} in the "
        f"{count(len(effects))} of {count(len(summary.by_category))} categories where it can be "
        f"told, with {sizes} prompts each."
    )


def dose_sentence(summary: Summary) -> str:
    """Whether the effect rises with the dose, as far as it was measured."""
    told = [
        (strength, point.causal_effect)
        for strength, point in dose_points(summary)
        if point.causal_effect is not None
    ]
    if not told:
        return "Whether the effect rises with the dose: not enough data."
    steps = ", ".join(
        f"{percent(effect)} at {strength:g}" for strength, effect in sorted(set(told))
    )
    return f"The effect of the chosen set is {steps} of the way."


def coherence_sentence(summary: Summary) -> str:
    """How much patched answers repeat themselves, beside both models'."""
    shares = {name: row.repetition for name, row in summary.coherence.items()}
    if any(shares.get(name) is None for name in ("patched", "aligned", "unaligned")):
        return "Whether patched answers repeat themselves: not enough data."
    return (
        f"Of patched answers {percent(shares['patched'])} repeats what stood in them before, of "
        f"the unaligned model's own {percent(shares['unaligned'])}, of the aligned model's "
        f"{percent(shares['aligned'])}."
    )
