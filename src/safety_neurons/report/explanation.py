"""What the units of the set do: sentences, charts and tables of the explanation card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from safety_neurons.report import words
from safety_neurons.report.neuronpage import anchor
from safety_neurons.report.pipeline import (
    PLACES,
    SERIES,
    best_area,
    fine,
)
from safety_neurons.runs.explanation import (
    Agreement,
    Area,
    CausalRow,
    DirectionFigures,
    ExplainedUnit,
    ExplanationCard,
    LayerNull,
    Openings,
    PipelineVerdict,
    Position,
    StageFigures,
    StageName,
)
from safety_neurons.runs.fragility import RefusalRate
from safety_neurons.statistics import Interval

FIRST, LISTED = 20, 300
"""Units of the table that are seen at once, and units in it at all."""
NO_FIGURE = "–"

SHORT = {Position.CONTENT: "content", Position.END: "end", Position.TAIL: "last"}
"""Places in a prompt, for a table."""
_SAID = {
    PipelineVerdict.PRESENT: (
        "The {noun} work as a pipeline: some tell harmful prompts from harmless ones, some carry "
        "that along the refusal direction, and some turn it into the words of a refusal"
    ),
    PipelineVerdict.PARTIAL: (
        "The pipeline from telling harm to writing a refusal is there only in part"
    ),
    PipelineVerdict.UNKNOWN: (
        "Whether there is a pipeline from telling harm to writing a refusal cannot be told"
    ),
    PipelineVerdict.ABSENT: (
        "There is no pipeline from telling harm to writing a refusal in these {noun}"
    ),
}
_REFUSED = {
    "intact": "the aligned model as it is",
    "without_direction": "the direction taken away",
    "without_set": "the set’s {noun} held at their harmless means",
    "without_both": "both",
    "unaligned": "the unaligned model as it is",
    "unaligned_with_direction": "the unaligned model with the direction added",
}
_ACTED = {
    "none": "",
    "ablate": "with {noun} held at their means over harmless prompts: ",
    "patch": "with the aligned model’s values in {noun}: ",
}
"""What is done to models, in the order of the page, and how a sentence says it."""
_AGREEING = {
    "top": "the {noun} with the largest estimates",
    "random": "random {noun}",
    "both": "both together",
}


# What was found, in sentences.


def finding(card: ExplanationCard) -> list[str]:
    """Whether the pipeline is there, and sentence by sentence why."""
    first = _SAID[card.verdict].format(noun=card.noun)
    return [_sentence(part) for part in (first, *card.reasons)]


def measured(card: ExplanationCard) -> str:
    """What was looked at."""
    return (
        f"Looked at: the first {words.count(card.k)} {card.noun} by {card.ranking} "
        f"({words.share(card.share)} of {words.count(card.units)}), on "
        f"{words.plural(card.n, 'harmful test prompt')} and "
        f"{words.plural(card.n_harmless, 'harmless one')}."
    )


def stage_finding(card: ExplanationCard) -> str:
    """How many units have which stages."""
    each = [f"{words.count(len(card.of_stage(stage)))} for {stage}" for stage in StageName]
    several = sum(len(unit.stages) > 1 for unit in card.neurons)
    idle = sum(not unit.stages for unit in card.neurons)
    return (
        f"Among the set’s {words.count(len(card.neurons))} {card.noun} there are "
        f"{', '.join(each[:-1])} and {each[-1]}; with several stages {words.count(several)}, with "
        f"none {words.count(idle)}."
    )


def detector_finding(card: ExplanationCard) -> list[str]:
    """For each model whether its detectors are in the set, or not even in the model."""
    models = dict.fromkeys(row.model for row in card.detectors)
    return [_detectors(card, model) for model in models]


def causal_finding(card: ExplanationCard) -> list[str]:
    """What holding units and patching them does to refusals, a sentence for each model."""
    rows = causal_rows(card)
    models = dict.fromkeys(row.recipient for row in rows)
    return [
        _changed([row for row in rows if row.recipient == model], card.noun) for model in models
    ]


def ways_finding(card: ExplanationCard) -> str:
    """Whether taking a stage out and putting it in say the same, stage by stage."""
    said: dict[bool, list[str]] = {True: [], False: []}
    for stage in StageName:
        out = card.row("ablate", stage, "aligned")
        into = card.row("patch", stage, "unaligned")
        if out is not None and into is not None:
            less, more = _beyond(out, fewer=True), _beyond(into, fewer=False)
            said[less == more].append(
                f"{stage} (without it {'fewer' if less else 'no fewer'} refusals than without "
                f"random {card.noun}, given it {'more' if more else 'no more'})"
            )
    if not any(said.values()):
        return ""
    parts = [
        f"{how} for {', '.join(stages)}"
        for how, stages in (("agree", said[True]), ("disagree", said[False]))
        if stages
    ]
    return f"Taking out and putting in {'; they '.join(parts)}."


def direction_finding(card: ExplanationCard) -> list[str]:
    """What the refusal direction is, what rests on it, and what the set writes of it."""
    of = card.direction
    without, intact = (words.number(odds) for odds in of.log_odds)
    chance = "" if of.random_writes is None else f" (random ones {fine(of.random_writes)})"
    behind = (
        f"No {card.noun[:-1]} of the set lies behind it."
        if of.set_left is None
        else f"Without the direction {words.percent(of.set_left)} is left of what sets harmful "
        f"prompts apart in the set’s {card.noun} behind it."
    )
    return [
        f"Of {words.count(of.tried)} that were tried (layers and tokens), the one chosen enters "
        f"layer {of.layer}, {_from_end(of.position)}: with it taken away the log-odds of the "
        f"model’s own refusals are {without} instead of {intact} (on other prompts than the test). "
        "It tells harmful test prompts from harmless ones with an AUROC of "
        f"{area(of.auroc)}.",
        f"The set’s {card.noun} below it write {fine(of.set_writes)} of the gap between harmful "
        f"and harmless prompts themselves{chance}; where the whole set is held, "
        f"{words.percent(of.direction_left)} of the harmful prompts’ way along it is left. "
        f"{behind}",
        *_carried(of),
    ]


def _carried(of: DirectionFigures) -> list[str]:
    """Whether refusals rest on the direction at all, which mediation along it presumes."""
    intact, without = (of.refused.get(name) for name in ("intact", "without_direction"))
    if intact is None or without is None:
        return []
    if intact.refusal_rate is None or without.refusal_rate is None:
        return []
    less = without.ci_high is not None and without.ci_high < intact.refusal_rate
    rates = f"{words.percent(without.refusal_rate)} instead of {words.percent(intact.refusal_rate)}"
    if less:
        return [f"With it taken out the model refuses {rates}."]
    return [
        f"With it taken out the model refuses {rates}: refusals are not shown to rest on it, so "
        "that mediation along it says little of them."
    ]


def opening_finding(openings: Openings) -> str:
    """Whether openings tell refusals from compliances."""
    auroc = words.number(openings.auroc) if openings.auroc is not None else words.NOT_ENOUGH
    said = (
        f"From {words.plural(openings.refusals, 'refusal')} and "
        f"{words.count(openings.compliances)} answers that comply; "
        f"{words.plural(openings.dropped, 'opening')} of both left out. Their likelihood tells "
        f"these answers apart with an AUROC of {auroc}"
    )
    if openings.usable:
        return f"{said}."
    return f"{said}: too little, so that steering was not measured."


def agreement_finding(of: Agreement, noun: str) -> str:
    """How first-order mediation goes with passes in which units are held."""
    name = _AGREEING[of.units].format(noun=noun)
    return (
        f"{name} ({words.count(of.n)}): correlation {_or_none(of.pearson)}, of ranks "
        f"{_or_none(of.spearman)}"
    )


# Tables.


@dataclass(frozen=True)
class Shown:
    """A figure of a cell, and its interval where there is one."""

    value: str = NO_FIGURE
    bounds: str = ""

    @classmethod
    def of(cls, value: float, bounds: Interval | None, worded: Callable[[float], str]) -> Shown:
        """Both in the same words."""
        return cls(worded(value), _between(bounds, worded))


@dataclass(frozen=True)
class UnitRow:
    """One unit as the table shows it.

    Args:
        anchor: the id of its page, None without one.
        where: the place in the prompt that `auroc` belongs to.
        p: by stage, in the stages' order.
    """

    rank: int
    name: str
    anchor: str | None
    stages: str
    auroc: Shown
    where: str
    unaligned: str
    mediation: Shown
    exact: str
    later: str
    steering: Shown
    p: str


def unit_rows(card: ExplanationCard, paged: set[str]) -> list[UnitRow]:
    """The set's first units, by rank.

    Args:
        paged: names of units that have pages.

    Returns:
        At most LISTED rows.
    """
    units = sorted(card.neurons, key=lambda unit: unit.rank)[:LISTED]
    return [_unit_row(unit, paged) for unit in units]


def causal_rows(card: ExplanationCard) -> list[CausalRow]:
    """Model by model: as it is, without units, given the aligned values."""
    models = dict.fromkeys(row.recipient for row in card.causal)
    return [
        row
        for model in models
        for intervention in _ACTED
        for row in card.causal
        if (row.recipient, row.intervention) == (model, intervention)
    ]


def sets_drawn(card: ExplanationCard) -> str:
    """How many random sets stand beside what is taken out, and what is put in."""
    said = []
    for intervention, how in (("ablate", "taken out"), ("patch", "put in")):
        counts = {r.random_sets for r in card.causal if r.intervention == intervention}
        if counts:
            least, most = min(counts), max(counts)
            said.append(f"{least if least == most else f'{least} to {most}'} where {how}")
    return ", ".join(said) or "none drawn"


def stage_layers(figures: Mapping[StageName, StageFigures], stage: StageName) -> list[str]:
    """The quartiles of a stage's layers."""
    of = figures.get(stage)
    found = [f"{at:g}" for at in of.quartiles] if of else []
    return found or [NO_FIGURE] * 3


def null_cells(row: LayerNull) -> list[str]:
    """By stage what units outside the set do: median, high and most."""
    cells = []
    for stage in StageName:
        of = row.effects.get(stage)
        values = [] if of is None else [of.median, of.high, of.most]
        show = fine if stage is StageName.MEDIATION else words.number
        cells.append(" · ".join(show(value) for value in values) or NO_FIGURE)
    return cells


def causal_name(row: CausalRow) -> str:
    """A model and what is done to it."""
    return f"{row.recipient} {_done(row)}"


def refused_rows(card: ExplanationCard) -> Iterator[tuple[str, RefusalRate]]:
    """Refusals with and without the direction, with names for people.

    Yields:
        In the order in which they are compared; further ones last.
    """
    known = [key for key in _REFUSED if key in card.direction.refused]
    for key in dict.fromkeys([*known, *card.direction.refused]):
        name = _REFUSED.get(key, key.replace("_", " ")).format(noun=card.noun)
        yield name, card.direction.refused[key]


def area(of: Area) -> str:
    """With its interval where there is one: `0.930 (0.880 to 0.980)`."""
    bounds = _between(of.interval, words.number)
    return words.number(of.auroc) + (f" ({bounds})" if bounds else "")


def shown(value: float | None, kind: str) -> str:
    """A figure of a cell: `area` or `rate`; a dash where it was not measured."""
    if value is None:
        return NO_FIGURE
    return words.number(value) if kind == "area" else words.percent(value)


# Pieces of sentences and of rows.


def _sentence(said: str) -> str:
    said = said.strip()
    ended = said if said.endswith((".", "!", "?")) else f"{said}."
    return ended[:1].upper() + ended[1:]


def _detectors(card: ExplanationCard, model: str) -> str:
    rows = [row for row in card.detectors if row.model == model]
    of = max(rows, key=lambda row: row.all)
    does = (
        f"tell harmful prompts from harmless ones at the {PLACES[of.position]} with an AUROC of at "
        f"least {of.least:g}, or at most {1 - of.least:g}, after correction for how many "
        f"{card.noun} there are"
    )
    if of.all == 0:
        return (
            f"None of the {model} model’s {words.count(card.units)} {card.noun}, in the set or "
            f"outside, {does}: they are not in the model. The best is {of.best} with "
            f"{words.number(of.best_auroc)}."
        )
    said = (
        f"Of the {model} model’s {words.count(card.units)} {card.noun} {words.count(of.all)} {does}"
    )
    if of.inside == 0:
        return (
            f"{said}, and none of them is in the set (by chance {words.number(of.expected)} would "
            f"be): they are in the model and not in the set. The best of the model is {of.best} "
            f"with {words.number(of.best_auroc)}, of the set {of.best_inside} with "
            f"{words.number(of.best_inside_auroc)}."
        )
    return (
        f"{said}; {words.count(of.inside)} of them are in the set, where "
        f"{words.number(of.expected)} would be by chance."
    )


def _changed(rows: Sequence[CausalRow], noun: str) -> str:
    """One model's rows as a sentence."""
    parts = []
    for intervention, how in _ACTED.items():
        said = [_rate(row) for row in rows if row.intervention == intervention]
        if said:
            parts.append(how.format(noun=noun) + ", ".join(said))
    return f"Of harmful prompts the {rows[0].recipient} model refuses {'; '.join(parts)}."


def _rate(row: CausalRow) -> str:
    chance = None if row.random is None else row.random.refusal_rate
    beside = "" if chance is None else f" (random {words.percent(chance)})"
    rate = words.percent(row.refusal_rate.refusal_rate)
    return f"{rate} {_done(row)}{beside}"


def _beyond(row: CausalRow, *, fewer: bool) -> bool:
    """Whether there are fewer (or more) refusals than under each random set."""
    chance = None if row.random is None else row.random.refusal_rate
    rate = row.refusal_rate.refusal_rate
    if chance is None or rate is None:
        return False
    return row.told and (rate < chance if fewer else rate > chance)


def _done(row: CausalRow) -> str:
    if row.intervention == "none":
        return "as it is"
    units = "the whole set" if row.stage == "set" else row.stage.replace("+", " + ")
    return f"{'without' if row.intervention == 'ablate' else 'given'} {units}"


def _unit_row(unit: ExplainedUnit, paged: set[str]) -> UnitRow:
    auroc, where, unaligned = Shown(), NO_FIGURE, NO_FIGURE
    if (best := best_area(unit)) is not None:
        place, of = best
        auroc, where = Shown.of(of.auroc, of.interval, words.number), SHORT[place]
        if (other := unit.detection_unaligned.get(place)) is not None:
            unaligned = words.number(other.auroc)
    p = [words.p_value(unit.p[stage]) if stage in unit.p else NO_FIGURE for stage in SERIES]
    lost, steering = unit.mediation, unit.steering
    return UnitRow(
        rank=unit.rank,
        name=unit.unit,
        anchor=anchor(unit.unit) if unit.unit in paged else None,
        stages=", ".join(unit.stages) or NO_FIGURE,
        auroc=auroc,
        where=where,
        unaligned=unaligned,
        mediation=Shown() if lost is None else Shown.of(lost.value, lost.interval, fine),
        exact=NO_FIGURE if unit.mediation_exact is None else fine(unit.mediation_exact),
        later=NO_FIGURE if unit.later is None else words.percent(unit.later),
        steering=Shown()
        if steering is None
        else Shown.of(steering.value, steering.interval, words.number),
        p=" · ".join(p).replace(" ", words.NBSP),
    )


def _between(bounds: Interval | None, worded: Callable[[float], str]) -> str:
    """From where to where, on one line."""
    if bounds is None:
        return ""
    low = worded(bounds.low).removesuffix(f"{words.NBSP}%")
    return f"{low} to {worded(bounds.high)}".replace(" ", words.NBSP)


def _from_end(position: int) -> str:
    if position == -1:
        return "at the last token of the prompt"
    return f"at token {words.count(-position)} from the end of the prompt"


def _or_none(value: float | None) -> str:
    return "not defined" if value is None else words.number(value)
