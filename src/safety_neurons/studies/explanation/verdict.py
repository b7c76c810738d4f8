"""Whether there is a pipeline: the rules, stated once for the card and for the page.

1. *Stages*: units of the set detect, mediate and steer more than the rest of their layer, in that
   order: the median layer of detection lies before that of steering, and that of mediation not
   outside them.
2. *Flow*: mediation rests on detection and steering on mediation: with the source's units held at
   their harmless means, more of the target's activity is lost than with random units, the interval
   of the loss lying above both 0 and these.
3. *Refusals*: with any one stage held, the aligned model refuses less than with any of the random
   sets held, prompt by prompt (McNemar's exact test, 5 %).

Present: all three. Absent: a stage has no unit, or neither flow is beyond chance. Unknown: that
stage is steering, and it could not be measured. Partial: all else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safety_neurons.runs.explanation import (
    CausalRow,
    Flow,
    PipelineVerdict,
    StageFigures,
    StageName,
)

RULES = (
    "Present: units of the set stand out from the rest of their layer in all three stages, the "
    "median layer of detection before that of steering and that of mediation not outside them; "
    "with one stage's units held at harmless means, the next one loses more than with random units "
    "held (95 % interval); and with any one stage held the aligned model refuses less than with "
    "any of the random sets held, prompt by prompt (McNemar's exact test, 5 %). Absent: a stage "
    "has no unit, or neither of the next ones loses more than by chance. Unknown: that stage is "
    "steering, and it could not be measured. Partial: all else."
)
CHAIN = (
    (StageName.DETECTION, StageName.MEDIATION),
    (StageName.MEDIATION, StageName.STEERING),
)


def judged(
    stages: Mapping[StageName, StageFigures],
    flows: Sequence[Flow],
    causal: Sequence[CausalRow],
    noun: str,
    *,
    steering_measured: bool,
) -> tuple[PipelineVerdict, list[str]]:
    """Whether there is a pipeline, and why.

    Args:
        steering_measured: whether openings were usable.

    Returns:
        The verdict, and a sentence for each rule.
    """
    empty = [stage for stage in StageName if not stages[stage].k]
    ordered, order = _order(stages, empty, noun, steering_measured=steering_measured)
    told = [_flow(flows, *link) for link in CHAIN]
    fallen = [_refusals(causal, stage, noun) for stage in StageName if stages[stage].k]
    reasons = [order, *(said for _, said in told if said), *(said for _, said in fallen)]
    if empty == [StageName.STEERING] and not steering_measured:
        return PipelineVerdict.UNKNOWN, reasons
    if empty or not any(beyond for beyond, _ in told):
        return PipelineVerdict.ABSENT, reasons
    whole = ordered and all(beyond for beyond, _ in told) and all(less for less, _ in fallen)
    return (PipelineVerdict.PRESENT if whole else PipelineVerdict.PARTIAL), reasons


def _order(
    stages: Mapping[StageName, StageFigures],
    empty: Sequence[StageName],
    noun: str,
    *,
    steering_measured: bool,
) -> tuple[bool, str]:
    counts = ", ".join(
        f"{stages[s].k:,} for {s}" + (f" (median layer {_layer(stages[s])})" if stages[s].k else "")
        for s in StageName
    )
    said = f"{noun.capitalize()} of the set that stand out from the rest of their layer: {counts}."
    if not steering_measured:
        said += (
            " Steering could not be measured: what answers begin with does not tell refusals from "
            "compliances."
        )
    if empty:
        lacking = " and ".join(empty)
        return False, f"{said} Without any for {lacking} there is no chain from one to the next."
    first, middle, last = (stages[stage].quartiles[1] for stage in StageName)
    if first <= middle <= last and first < last:
        return True, f"{said} They stand in the order of the pipeline."
    return False, f"{said} They do not stand in the order of the pipeline."


def _flow(flows: Sequence[Flow], source: StageName, target: StageName) -> tuple[bool, str]:
    found = next((f for f in flows if (f.source, f.target) == (source, target)), None)
    if found is None:
        return False, ""
    chance = found.random or 0.0
    beyond = found.ci_low is not None and found.ci_low > max(chance, 0.0)
    bounds, beside = "", ""
    if found.ci_low is not None:
        bounds = f" ({_percent(found.ci_low)} to {_percent(found.ci_high)})"
    if found.random is not None:
        beside = f", with random ones {_percent(found.random)}"
    verb = "rests" if beyond else "is not shown to rest"
    return beyond, (
        f"{str(target).capitalize()} {verb} on {source}: without it {_percent(found.lost)}{bounds} "
        f"of what sets harmful prompts apart there is lost{beside}."
    )


def _refusals(causal: Sequence[CausalRow], stage: StageName, noun: str) -> tuple[bool, str]:
    row = next((r for r in causal if (r.intervention, r.stage) == ("ablate", stage)), None)
    if row is None or row.refusal_rate.refusal_rate is None:
        return False, f"Whether refusals rest on {stage} could not be told."
    rate, chance = row.refusal_rate.refusal_rate, row.random.refusal_rate if row.random else None
    less = row.told and chance is not None and rate < chance
    beside = "" if chance is None else f", without random ones {_percent(chance)}"
    verb = "rest" if less else "are not shown to rest"
    return less, (
        f"Refusals {verb} on {stage}: without its {row.k:,} {noun if row.k > 1 else noun[:-1]} the "
        f"aligned model refuses {_percent(rate)}{beside}."
    )


def _percent(value: float | None) -> str:
    # Adding 0 makes -0 a 0.
    return f"{round(value or 0.0, 2) + 0.0:.0%}".replace("-", "−")


def _layer(figures: StageFigures) -> str:
    return f"{figures.quartiles[1]:g}"
