"""Stable, fragile or noise: the rules, stated once for the card and for the page.

1. *Noise*: the interval of the effect does not lie above the effect of every control set; or the
   sets found on the two halves of the prompts share no more than NO_MORE times what chance gives.
2. *Unknown*: the effect cannot be told, such as from too few prompts.
3. *Stable*: neither; the halves' sets have an intersection over union of at least ALIKE; and
   every set that another run chose has at least TRANSFERS of the own set's effect here.
4. *Fragile*: all else.
"""

from __future__ import annotations

from collections.abc import Sequence

from safety_neurons.figures import bounded, percent
from safety_neurons.runs.stability import Overlap, SetEffect, Verdict

HALVES = "halves of the prompts"
NO_MORE = 2.0
ALIKE = 0.5
TRANSFERS = 0.5

RULES = (
    "Noise: the effect's interval does not lie above every control set's effect, or the sets of "
    f"two halves of the prompts share no more than {NO_MORE:g} times what chance gives. "
    "Unknown: the effect cannot be told. "
    f"Stable: the halves' sets have an intersection over union of at least {ALIKE:g}, and every "
    f"other run's set has at least {percent(TRANSFERS)} of the effect. Fragile: all else."
)


def judged(
    own: SetEffect,
    controls: Sequence[SetEffect],
    overlaps: Sequence[Overlap],
    transfers: Sequence[SetEffect],
) -> tuple[Verdict, list[str]]:
    """What the set is, and why.

    Returns:
        The verdict, and its reasons as parts of a sentence.
    """
    (halves,) = [overlap for overlap in overlaps if overlap.changed == HALVES]
    if noise := _noise(own, controls, halves):
        return Verdict.NOISE, noise
    if own.causal_effect is None or own.ci_low is None:
        return Verdict.UNKNOWN, ["its effect cannot be told"]
    fragile = []
    if halves.iou is None or halves.iou < ALIKE:
        fragile.append(f"the sets of two halves of the prompts have only {_shared(halves)}")
    for other in transfers:
        if other.causal_effect is None or other.causal_effect < TRANSFERS * (
            own.causal_effect or 0
        ):
            fragile.append(f"the set of {other.name} has an effect of {_number(other)} here")
    if fragile:
        return Verdict.FRAGILE, fragile
    reasons = [
        f"its effect of {_number(own)} lies above every control set's",
        f"the sets of two halves of the prompts have {_shared(halves)}",
    ]
    if transfers:
        least = min(transfer.causal_effect or 0.0 for transfer in transfers)
        reasons.append(f"the sets of other runs have an effect of at least {percent(least)} here")
    return Verdict.STABLE, reasons


def _noise(own: SetEffect, controls: Sequence[SetEffect], halves: Overlap) -> list[str]:
    reasons = []
    known = [control.causal_effect for control in controls if control.causal_effect is not None]
    if known and own.ci_low is not None and own.ci_low <= max(known):
        reasons.append(
            f"its effect of {_number(own)} is not told from a control set's ({percent(max(known))})"
        )
    if halves.iou is None or halves.chance is None or halves.iou <= NO_MORE * halves.chance:
        reasons.append(f"the sets of two halves of the prompts have {_shared(halves)}")
    return reasons


def _shared(halves: Overlap) -> str:
    def shown(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    by_chance = shown(halves.chance, 3)  # of small sets it is far below a hundredth
    return f"an intersection over union of {shown(halves.iou, 2)} (by chance {by_chance})"


def _number(effect: SetEffect) -> str:
    return bounded(effect.causal_effect, effect.interval, "nothing that can be told")
