"""What the units of a set do: what `explanation.json` holds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from safety_neurons.runs.fragility import RefusalRate
from safety_neurons.runs.record import BoundedRecord, Record

EXPLANATION = "explanation.json"
LEVEL = 0.05
"""p from which on refusals are called different."""
DIRECTION = "direction.safetensors"


class StageName(StrEnum):
    """What a unit may do; the order is that of the pipeline."""

    DETECTION = "detection"
    MEDIATION = "mediation"
    STEERING = "steering"


class Position(StrEnum):
    """Where in a prompt activations are read.

    `content` is the mean over the user's words that carry content, `end` the last token of the
    user's text, `tail` the last token of the prompt, behind which the answer begins.
    """

    CONTENT = "content"
    END = "end"
    TAIL = "tail"


class Area(BoundedRecord):
    """An area under a ROC curve, harmful prompts against harmless ones."""

    auroc: float


class Figure(BoundedRecord):
    """A mean over prompts."""

    value: float


class ExplainedUnit(Record):
    """One unit of the set.

    Args:
        rank: its place in the ranking, from 1.
        detection: by position, in the aligned model; `detection_unaligned` in the other one.
        mediation: what is lost of the harmful prompts' way along the refusal direction at later
            layers, as a part of it, where this unit is held at its harmless mean (first order);
            None in the last layer.
        later: the same of the set's units in later layers; None where there are none.
        mediation_exact: `mediation` by passes with the unit held, where these were made.
        steering: what it adds to the logits of refusal openings above compliance openings, per
            token; None where openings are unusable.
        p: by stage, how often a unit of its layer outside the set does as much.
        stages: what it does beyond chance.
        own: the part of what sets harmful prompts apart in it that is left where the set's units in
            earlier layers are held at harmless means; None where nothing sets them apart.
        part: the one stage in which it stands in the causal test: the last of its stages, but
            detection for a unit that does not steer and of whose activity at least half is its own.
    """

    unit: str
    layer: int
    neuron: int
    rank: int
    detection: dict[Position, Area]
    detection_unaligned: dict[Position, Area]
    mediation: Figure | None = None
    later: float | None = None
    mediation_exact: float | None = None
    steering: Figure | None = None
    p: dict[StageName, float] = Field(default_factory=dict)
    stages: list[StageName] = Field(default_factory=list)
    own: float | None = None
    part: StageName | None = None


class Quantiles(Record):
    """Of the units of one layer that are outside the set."""

    median: float
    high: float
    most: float


class LayerNull(Record):
    """What units of a layer do that are outside the set: the null of each stage.

    Args:
        n: how many units.
        effects: by stage; a stage is left out where it cannot be measured. Detection is the
            distance of the area from one half, at the position where it is largest.
    """

    layer: int
    n: int
    effects: dict[StageName, Quantiles]


class StageFigures(Record):
    """The units of one stage.

    Args:
        quartiles: of their layers (25, 50 and 75 %); empty without units.
    """

    k: int
    quartiles: list[float] = Field(default_factory=list)


class Detectors(Record):
    """How many of all units tell harmful prompts from harmless ones, in one model.

    Args:
        position: where.
        all, inside: those with an area of at least `least` or at most 1 − `least`, of all units and
            of the set, after correction for how many there are.
        expected: how many of the set would be, if it were drawn at random within layers.
        best, best_inside: the units with the largest areas (or smallest, whichever is further from
            one half), and these areas.
    """

    model: str
    position: Position
    least: float
    all: int
    inside: int
    expected: float
    best: str
    best_auroc: float
    best_inside: str
    best_inside_auroc: float


class Downstream(Record):
    """What is measured behind an intervention; None where it could not be.

    Args:
        detection: area by which later layers tell harmful prompts from harmless ones at the end of
            the user's text, along the difference of means; mean over layers.
        direction: how far harmful prompts lie along the refusal direction, 0 as harmless ones and 1
            as harmful ones of the aligned model as it is.
        first_token: probability of first tokens that begin refusals alone.
        refusal_rate: of answers to harmful prompts.
    """

    detection: float | None
    direction: float | None
    first_token: float | None
    refusal_rate: float | None


class CausalRow(Record):
    """One model under one intervention on the units of a stage, or as it is.

    Args:
        intervention: `none`, `ablate` (held at harmless means) or `patch` (the aligned values).
        stage: of which stage the units are, several joined by `+`; `set` for the whole set.
        recipient: whose answers.
        k: how many units.
        n: harmful prompts.
        random: means over random sets, as many units in each layer; None where none were drawn.
        p: of refusals beside those under each random set, prompt by prompt (McNemar's exact test),
            the largest; None without random sets.
    """

    intervention: Literal["none", "ablate", "patch"]
    stage: str
    recipient: str
    k: int
    n: int
    detection: Area | None
    direction: Figure
    first_token: Figure | None
    refusal_rate: RefusalRate
    random: Downstream | None = None
    random_sets: int = 0
    p: float | None = None

    @property
    def told(self) -> bool:
        """Whether refusals differ from those under random sets (5 %)."""
        return self.p is not None and self.p <= LEVEL


class Flow(BoundedRecord):
    """How much of one stage's activity rests on another's units.

    Args:
        lost: of what sets harmful prompts apart in the target's units (those behind the source's
            first layer, and not its own), the part that is lost where the source's units are held
            at harmless means.
        random: the same for a random set of as many units in each layer.
        k_target: how many units of the target were looked at.
    """

    source: StageName
    target: StageName
    k_source: int
    k_target: int
    lost: float
    random: float | None


class LayerCosines(Record):
    """The refusal direction of one layer beside others.

    Args:
        unaligned: the cosine of the aligned model's direction with the unaligned model's; None, as
            in `chosen`, where the prompts are all the same to the layer.
        chosen: with the chosen direction.
        writes: of what the set's units of that layer write (harmful less harmless) with the chosen
            direction; None where the set has none there, or a norm stands behind the MLP (Gemma).
    """

    layer: int
    unaligned: float | None
    chosen: float | None
    writes: float | None


class DirectionFigures(Record):
    """The refusal direction: difference of means between harmful and harmless prompts.

    Args:
        layer: it enters this one.
        position: token, counted from the end of the prompt (-1 is the last).
        tried: how many layers and positions.
        log_odds: of the model's own refusals on `select`, with it taken out and as they are.
        auroc: on test prompts.
        gap: how far the means of harmful and harmless prompts lie apart.
        set_writes: the part of the gap that the set's units below the layer write directly;
            `random_writes` that of random ones.
        cosines: layer by layer.
        refused: refusals of harmful test prompts: `intact`, `without_direction`, `without_set`,
            `without_both`, and of the unaligned model `unaligned` and `unaligned_with_direction`.
        set_left: of what sets harmful prompts apart in the set's units behind the layer, what is
            left without the direction; None where none are behind it.
        direction_left: of the way along the direction, what is left without the set.
    """

    layer: int
    position: int
    tried: int
    log_odds: tuple[float, float]
    auroc: Area
    gap: float
    set_writes: float
    random_writes: float | None
    cosines: list[LayerCosines]
    refused: dict[str, RefusalRate]
    set_left: float | None
    direction_left: float


class Openings(Record):
    """What answers begin with, and whether it tells refusals from compliances.

    Args:
        refusal, compliance: texts of at most five tokens, the most frequent first.
        dropped: openings of both, which say nothing.
        auroc: by which their likelihood tells the answers of `select` apart.
        refusals, compliances: how many of these answers.
        usable: whether that is enough for steering.
    """

    refusal: list[str]
    compliance: list[str]
    dropped: int
    auroc: float | None
    refusals: int
    compliances: int
    usable: bool


class Agreement(Record):
    """First-order mediation beside passes with the units held.

    Args:
        n: units.
        pearson, spearman: None where either does not vary.
    """

    units: Literal["top", "random", "both"]
    n: int
    pearson: float | None
    spearman: float | None


class PipelineVerdict(StrEnum):
    """Whether the story holds, by the rules of `studies.explanation.verdict`."""

    PRESENT = "present"
    PARTIAL = "partial"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class ExplanationCard(Record):
    """What `explanation.json` holds.

    Args:
        ranking, share, k: the set.
        n, n_harmless: test prompts.
        units: of the whole model.
        neurons: the set's units, by rank.
        null: by layer.
        stages: by name; a unit may have several.
        parts: the same of the units that stand in each stage in the causal test.
        detectors: all units of both models.
        agreement: of mediation.
        causal: the first rows are the models as they are.
        flow: between stages.
        verdict, reasons, rules: whether there is a pipeline, why, and by which rules.
    """

    format: Literal["safety-neurons/explanation/1"] = "safety-neurons/explanation/1"
    noun: str = "neurons"
    judge: str
    ranking: str
    share: float
    k: int
    units: int
    layers: int
    n: int
    n_harmless: int
    neurons: list[ExplainedUnit]
    null: list[LayerNull]
    stages: dict[StageName, StageFigures]
    parts: dict[StageName, StageFigures]
    detectors: list[Detectors]
    openings: Openings
    agreement: list[Agreement]
    causal: list[CausalRow]
    flow: list[Flow]
    direction: DirectionFigures
    verdict: PipelineVerdict
    reasons: list[str]
    rules: str
    options: dict[str, Any] = Field(default_factory=dict)

    def row(self, intervention: str, stage: str, recipient: str) -> CausalRow | None:
        """The causal row of one intervention, None where it was not made."""
        key = (intervention, stage, recipient)
        return next((r for r in self.causal if (r.intervention, r.stage, r.recipient) == key), None)

    def of_part(self, stage: StageName) -> list[ExplainedUnit]:
        """The units that stand in a stage in the causal test, by rank."""
        return [unit for unit in self.neurons if unit.part == stage]

    def of_stage(self, stage: StageName) -> list[ExplainedUnit]:
        """The units that have a stage, by rank."""
        return [unit for unit in self.neurons if stage in unit.stages]
