"""Single units looked at closely: what `neuron-pages.json` holds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from safety_neurons.runs.explanation import StageName
from safety_neurons.runs.record import BoundedRecord, Record

PAGES = "neuron-pages.json"


class TokenWeight(Record):
    """A token and what a unit's weights have to do with it."""

    token: str
    value: float


class Reading(Record):
    """The tokens that one of a unit's weight vectors is most and least aligned with.

    Args:
        of: `writes` (its column through the unembedding), or the projection that makes it, such as
            `gate` and `up` (its row through the embedding).
    """

    of: str
    highest: list[TokenWeight]
    lowest: list[TokenWeight]


class Example(Record):
    """A place in a text where a unit is large (or small).

    Args:
        before, token, after: the text around it.
        value: the unit's activation there.
    """

    before: str
    token: str
    after: str
    value: float


class Examples(Record):
    """The places where one model's unit is largest and smallest, on the same texts."""

    model: str
    highest: list[Example]
    lowest: list[Example]


class Neighbour(Record):
    """Another unit, and how alike it is."""

    unit: str
    value: float


class ScaledEffect(BoundedRecord):
    """What the unit times a factor does to the log-odds of the model's own refusals."""

    factor: float
    log_odds: float


class NeuronPage(Record):
    """One unit.

    Args:
        ranks: its place in each of the run's rankings, from 1.
        stages: where the unit is in an explained set.
        by_cosine: units whose columns point the same way, or the opposite one.
        by_activation: units whose activations go together over the corpus.
        scaled: empty where it was not measured.
    """

    unit: str
    ranks: dict[str, int]
    stages: list[StageName] | None = None
    readings: list[Reading]
    examples: list[Examples]
    by_cosine: list[Neighbour]
    by_activation: list[Neighbour]
    scaled: list[ScaledEffect] = Field(default_factory=list)


class NeuronPages(Record):
    """What `neuron-pages.json` holds.

    Args:
        corpus: what the texts are, for people.
        tokens: how many tokens each model read.
        refusals: how many refusals scaled effects are means over.
    """

    format: Literal["safety-neurons/neuron-pages/1"] = "safety-neurons/neuron-pages/1"
    corpus: str
    tokens: int
    refusals: int = 0
    pages: list[NeuronPage]
