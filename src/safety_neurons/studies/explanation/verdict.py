"""Whether there is a pipeline: the rules, stated once for the card and for the page.

1. *Stages*: units of the set detect, mediate and steer more than the rest of their layer, in that
   order: the median layer of detection lies before that of steering, and that of mediation not
   outside them.
2. *Flow*: mediation rests on detection and steering on mediation: with the source's units held at
   their harmless means, more of the target's activity is lost than with random units, the interval
   of the loss lying above both 0 and these.
3. *Refusals*: with any one stage held, the aligned model refuses less than with any of the random
   sets held, prompt by prompt (McNemar's exact test, 5 %).

Present: all three. Absent: no unit stands out in a stage that was measured, or neither flow is
beyond chance. Unknown: what would decide was not measured (openings that tell too little, nothing
outside the set to compare with, too few prompts, no random sets). Partial: all else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from safety_neurons.figures import bounded, percent
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
    "any of the random sets held, prompt by prompt (McNemar's exact test, 5 %). Absent: nothing "
    "stands out in a stage that was measured, or neither of the next ones loses more than by "
    "chance. Unknown: what would decide was not measured. Partial: all else."
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
    measured: Collection[StageName],
) -> tuple[PipelineVerdict, list[str]]:
    """Whether there is a pipeline, and why.

    Args:
        measured: the stages in which units could be compared with others.

    Returns:
        The verdict, and a sentence for each rule.
    """
    empty = [stage for stage in StageName if not stages[stage].k]
    ordered, order = _order(stages, empty, noun, measured)
    links = [_flow(flows, *link) for link in CHAIN if not set(link) & set(empty)]
    fallen = [_refusals(causal, stage, noun) for stage in StageName if stages[stage].k]
    reasons = [order, *(said for _, said in (*links, *fallen))]
    told = [beyond for beyond, _ in links]
    none_told = bool(told) and all(beyond is False for beyond in told)
    if none_told or any(stage in measured for stage in empty):
        return PipelineVerdict.ABSENT, reasons
    if empty or None in told or None in [less for less, _ in fallen]:
        return PipelineVerdict.UNKNOWN, reasons
    whole = ordered and all(told) and all(less for less, _ in fallen)
    return (PipelineVerdict.PRESENT if whole else PipelineVerdict.PARTIAL), reasons


def _order(
    stages: Mapping[StageName, StageFigures],
    empty: Sequence[StageName],
    noun: str,
    measured: Collection[StageName],
) -> tuple[bool, str]:
    counts = ", ".join(
        f"{stages[s].k:,} for {s}" + (f" (median layer {_layer(stages[s])})" if stages[s].k else "")
        for s in StageName
    )
    said = f"{noun.capitalize()} of the set that stand out from the rest of their layer: {counts}."
    if unknown := [stage for stage in StageName if stage not in measured]:
        said += f" Not measured: {' and '.join(unknown)}."
    if StageName.STEERING in unknown and len(unknown) == 1:
        said += " What answers begin with does not tell refusals from compliances."
    if empty:
        lacking = " and ".join(empty)
        return False, f"{said} Without any for {lacking} there is no chain from one to the next."
    first, middle, last = (stages[stage].quartiles[1] for stage in StageName)
    if first <= middle <= last and first < last:
        return True, f"{said} They stand in the order of the pipeline."
    return False, f"{said} They do not stand in the order of the pipeline."


def _flow(flows: Sequence[Flow], source: StageName, target: StageName) -> tuple[bool | None, str]:
    """Whether the target rests on the source; None where that was not measured."""
    found = next((f for f in flows if (f.source, f.target) == (source, target)), None)
    if found is None or found.random is None or found.ci_low is None:
        return None, f"Whether {target} rests on {source} could not be told."
    beyond = found.ci_low > max(found.random, 0.0)
    return beyond, (
        f"{str(target).capitalize()} {'rests' if beyond else 'is not shown to rest'} on {source}: "
        f"without it {bounded(found.lost, found.interval)} of what sets harmful prompts apart "
        f"there is lost, with random ones {percent(found.random)}."
    )


def _refusals(causal: Sequence[CausalRow], stage: StageName, noun: str) -> tuple[bool | None, str]:
    """Whether refusals rest on a stage; None where that was not measured."""
    row = next((r for r in causal if (r.intervention, r.stage) == ("ablate", stage)), None)
    rate = None if row is None else row.refusal_rate.refusal_rate
    chance = None if row is None or row.random is None else row.random.refusal_rate
    if row is None or rate is None or chance is None:
        return None, f"Whether refusals rest on {stage} could not be told."
    less = row.told and rate < chance
    return less, (
        f"Refusals {'rest' if less else 'are not shown to rest'} on {stage}: without its {row.k:,} "
        f"{noun if row.k > 1 else noun[:-1]} the aligned model refuses {percent(rate)}, without "
        f"random ones {percent(chance)}."
    )


def _layer(figures: StageFigures) -> str:
    return f"{figures.quartiles[1]:g}"
