"""Single units looked at closely: a page of their own, or foldable pages inside the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_neurons.report import words
from safety_neurons.report.templating import rendered
from safety_neurons.runs.explanation import StageName
from safety_neurons.runs.neuronpages import (
    Example,
    Neighbour,
    NeuronPage,
    NeuronPages,
    Reading,
    ScaledEffect,
)

_READINGS = {
    "writes": ("What it writes", "logits"),
    "gate": ("What its gate reads", "cosine"),
    "up": ("What its up projection reads", "cosine"),
    "in": ("What it reads", "cosine"),
}
_STAGES = {
    StageName.DETECTION: "detects harmful prompts",
    StageName.MEDIATION: "pushes along the refusal direction",
    StageName.STEERING: "writes towards how refusals begin",
}
_FACTORS = {0.0: "taken away (× 0)", 2.0: "doubled (× 2)", -1.0: "turned round (× −1)"}
_SIGNS = str.maketrans({" ": "·", "\n": "↵", "\t": "→"})


@dataclass(frozen=True)
class ReadingView:
    """One weight vector's tokens.

    Args:
        unit: what the figures are.
        rows: the tokens with their figures, the highest and the lowest beside each other.
    """

    title: str
    unit: str
    rows: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class PlaceView:
    """A place in a text, with the unit's activation there."""

    before: str
    token: str
    after: str
    value: str


@dataclass(frozen=True)
class ModelView:
    """Where one model's unit is large, and where it is small."""

    model: str
    highest: tuple[PlaceView, ...]
    lowest: tuple[PlaceView, ...]


@dataclass(frozen=True)
class NeighbourView:
    """Another unit; `anchor` is the id of its page, None where it has none here."""

    unit: str
    value: str
    anchor: str | None


@dataclass(frozen=True)
class EffectView:
    """What a factor does to the log-odds of refusals."""

    factor: str
    log_odds: str
    interval: str


@dataclass(frozen=True)
class NeuronView:
    """One unit as a page shows it.

    Args:
        anchor: the id of its part.
        ranks: ranking and place.
        stages: what it does in an explained set; None where that was not asked.
        effect: a sentence on `effects`.
    """

    unit: str
    anchor: str
    ranks: tuple[tuple[str, str], ...]
    stages: str | None
    readings: tuple[ReadingView, ...]
    models: tuple[ModelView, ...]
    by_cosine: tuple[NeighbourView, ...]
    by_activation: tuple[NeighbourView, ...]
    effects: tuple[EffectView, ...]
    effect: str


def neuron_page_html(pages: NeuronPages, run_name: str) -> str:
    """A self-contained page of all units of a record.

    Args:
        run_name: of the run, for people.

    Returns:
        The page's HTML.
    """
    return rendered(
        "neuron-page.html.jinja",
        title=", ".join(page.unit for page in pages.pages),
        run_name=run_name,
        pages=pages,
        views=neuron_views(pages),
    )


def neuron_views(pages: NeuronPages) -> tuple[NeuronView, ...]:
    """All units of a record, for the macros of `neuron.html.jinja`."""
    shown = {page.unit for page in pages.pages}
    return tuple(_view(page, shown) for page in pages.pages)


def anchor(unit: str) -> str:
    """The id of a unit's part, wherever it is shown."""
    return f"neuron-{unit}"


def strongest(page: NeuronPage) -> tuple[str, Example] | None:
    """The model and the place in a text where the unit is furthest from 0."""
    found = [
        (examples.model, example)
        for examples in page.examples
        for example in (*examples.highest, *examples.lowest)
    ]
    return max(found, key=lambda each: abs(each[1].value), default=None)


def token_text(text: str) -> str:
    """A token with its spaces, line breaks and control characters to be seen."""
    seen = text.translate(_SIGNS)
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in seen)


def effect_sentence(effects: Sequence[ScaledEffect]) -> str:
    """Which factor moves refusals most, as far as intervals tell."""
    if not effects:
        return "Not measured, as there were no refusals of the aligned model to measure it on."
    told = [e for e in effects if e.interval and not e.interval.low <= 0 <= e.interval.high]
    if not told:
        return "By itself it moves the log-odds of refusals no further than chance may."
    most = max(told, key=lambda effect: abs(effect.log_odds))
    way = "more" if most.log_odds > 0 else "less"
    return (
        f"Where it is {_factor(most.factor)}, the model’s own refusals become {way} likely: their "
        f"log-odds change by {words.number(most.log_odds)}."
    )


def _view(page: NeuronPage, shown: set[str]) -> NeuronView:
    return NeuronView(
        unit=page.unit,
        anchor=anchor(page.unit),
        ranks=tuple((name, words.count(rank)) for name, rank in page.ranks.items()),
        stages=None
        if page.stages is None
        else ", ".join(_STAGES[stage] for stage in page.stages)
        or "nothing that stands out from its layer",
        readings=tuple(map(_reading, page.readings)),
        models=tuple(
            ModelView(
                examples.model,
                tuple(map(_place, examples.highest)),
                tuple(map(_place, examples.lowest)),
            )
            for examples in page.examples
        ),
        by_cosine=tuple(_neighbour(each, shown) for each in page.by_cosine),
        by_activation=tuple(_neighbour(each, shown) for each in page.by_activation),
        effects=tuple(map(_effect, page.scaled)),
        effect=effect_sentence(page.scaled),
    )


def _reading(reading: Reading) -> ReadingView:
    title, unit = _READINGS.get(reading.of, (reading.of, "cosine"))
    rows = tuple(
        (
            token_text(high.token),
            words.number(high.value),
            token_text(low.token),
            words.number(low.value),
        )
        for high, low in zip(reading.highest, reading.lowest, strict=True)
    )
    return ReadingView(title, unit, rows)


def _place(example: Example) -> PlaceView:
    # A line break alone would be a mark that nobody sees.
    token = example.token if example.token.strip() else token_text(example.token)
    return PlaceView(example.before, token, example.after, words.number(example.value))


def _neighbour(neighbour: Neighbour, shown: set[str]) -> NeighbourView:
    beside = anchor(neighbour.unit) if neighbour.unit in shown else None
    return NeighbourView(neighbour.unit, words.number(neighbour.value), beside)


def _effect(effect: ScaledEffect) -> EffectView:
    bounds = effect.interval
    interval = (
        words.NOT_ENOUGH
        if bounds is None
        else f"{words.number(bounds.low)} to {words.number(bounds.high)}"
    )
    return EffectView(_factor(effect.factor), words.number(effect.log_odds), interval)


def _factor(factor: float) -> str:
    return _FACTORS.get(factor, f"times {words.number(factor)}")
