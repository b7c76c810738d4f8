"""The report's part on what neurons do: sentences, the picture, and what it must not say."""

from __future__ import annotations

import html
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from safety_neurons.report import explanation as explained
from safety_neurons.report import explanationcharts, pipeline, words
from safety_neurons.report.charts.sized import NARROW, WIDE, WIDTHS
from safety_neurons.report.standalone import standalone
from safety_neurons.report.templating import rendered
from safety_neurons.runs.explanation import (
    Agreement,
    Area,
    CausalRow,
    Detectors,
    DirectionFigures,
    Downstream,
    ExplainedUnit,
    ExplanationCard,
    Figure,
    Flow,
    LayerCosines,
    LayerNull,
    Openings,
    PipelineVerdict,
    Position,
    Quantiles,
    StageFigures,
    StageName,
)
from safety_neurons.runs.fragility import RefusalRate
from safety_neurons.statistics import rate

DETECTION, MEDIATION, STEERING = StageName
TAGGED = "<b>I can't</b>"
CHANCE = {"detection": 0.98, "direction": 0.99, "first_token": 0.77}


def refused(value: float | None, n: int = 64) -> RefusalRate:
    if value is None:
        return RefusalRate(n=n, refusal_rate=None, unscored=n, ci_low=None, ci_high=None)
    found = rate(round(value * n), n)
    return RefusalRate(
        n=n, refusal_rate=found.value, ci_low=found.ci_low, ci_high=found.ci_high, unscored=1
    )


def within(kind: type, value: float, half: float = 0.04, **more: Any) -> Any:
    name = {Area: "auroc", Figure: "value", Flow: "lost"}[kind]
    return kind(**{name: value}, ci_low=value - half, ci_high=value + half, **more)


def unit(rank: int, layer: int, neuron: int, stages: list[StageName]) -> ExplainedUnit:
    """Its figures say which unit it is."""
    told = 0.9 - 0.002 * rank if DETECTION in stages else 0.55
    return ExplainedUnit(
        unit=f"L{layer}.N{neuron}",
        layer=layer,
        neuron=neuron,
        rank=rank,
        detection={
            Position.CONTENT: within(Area, 0.5),
            Position.END: within(Area, told),
            Position.TAIL: within(Area, 0.48),
        },
        detection_unaligned={Position.END: within(Area, told - 0.1)},
        mediation=within(Figure, 0.08 / rank if MEDIATION in stages else 0.0004, 0.0003),
        later=0.25 / rank,
        mediation_exact=0.07 / rank if rank < 6 else None,
        steering=within(Figure, 0.06 / rank if STEERING in stages else -0.002, 0.001),
        p=dict.fromkeys(StageName, 0.2) | dict.fromkeys(stages, 0.0004),
        stages=stages,
        own=0.4,
        part=max(stages, key=list(StageName).index, default=None),
    )


def without(one: ExplainedUnit, stage: StageName, **changes: Any) -> ExplainedUnit:
    """The same unit, but for one of its stages."""
    left = [each for each in one.stages if each is not stage]
    part = left[-1] if left else None
    return one.model_copy(update={**changes, "stages": left, "part": part})


def units() -> list[ExplainedUnit]:
    """Twelve: four a stage, one with two of them, one with none."""
    placed = [
        (1, 5, [MEDIATION]),
        (2, 6, [STEERING]),
        (3, 2, [DETECTION]),
        (4, 2, [DETECTION]),
        (5, 4, [DETECTION, MEDIATION]),
        (6, 3, [DETECTION]),
        (7, 5, [MEDIATION]),
        (8, 5, [MEDIATION]),
        (9, 7, [STEERING]),
        (10, 7, [STEERING]),
        (11, 6, [STEERING]),
        (12, 0, []),
    ]
    return [unit(rank, layer, 100 + rank, stages) for rank, layer, stages in placed]


def many(n: int, layers: int) -> list[ExplainedUnit]:
    """Hundreds, crowded in the middle layers."""
    found = []
    for rank in range(1, n + 1):
        layer = (13 * rank) % layers if rank % 3 else layers // 2 + rank % 4
        stages = [
            stage for i, stage in enumerate(StageName) if (rank + i) % 3 == 0 or rank % 11 == i
        ]
        found.append(unit(rank, layer, rank, stages))
    return found


def causal(stage: str, intervention: str, recipient: str, value: float | None) -> CausalRow:
    drawn = intervention != "none"
    return CausalRow(
        intervention=intervention,
        stage=stage,
        recipient=recipient,
        k=4,
        n=64,
        detection=within(Area, 0.97, 0.02),
        direction=within(Figure, 0.61),
        first_token=within(Figure, 0.43),
        refusal_rate=refused(value),
        random=Downstream(**{**CHANCE, "refusal_rate": 0.06 if intervention == "patch" else 0.89})
        if drawn
        else None,
        random_sets=3 if drawn else 0,
        p=None if not drawn or value is None else 0.4 if abs(value - 0.89) < 0.05 else 0.001,
    )


def flow(source: StageName, target: StageName, lost: float, chance: float | None) -> Flow:
    return within(Flow, lost, source=source, target=target, k_source=4, k_target=3, random=chance)


def card(**changes: Any) -> ExplanationCard:
    """Twelve invented units in eight layers."""
    neurons = changes.pop("neurons", units())
    layers = changes.pop("layers", 8)
    figures: dict[str, Any] = {
        "judge": "classifier",
        "ranking": "attribution",
        "share": 0.005,
        "k": len(neurons),
        "units": 2400,
        "layers": layers,
        "n": 64,
        "n_harmless": 60,
        "neurons": neurons,
        "null": [
            LayerNull(
                layer=layer,
                n=299,
                effects={stage: Quantiles(median=0.01, high=0.05, most=0.2) for stage in StageName},
            )
            for layer in range(layers)
        ],
        "stages": {
            stage: StageFigures(k=sum(stage in u.stages for u in neurons), quartiles=[2, 2.5, 3])
            for stage in StageName
        },
        "parts": {
            stage: StageFigures(k=sum(stage is u.part for u in neurons), quartiles=[2, 2.5, 3])
            for stage in StageName
        },
        "detectors": [
            Detectors(
                model=model,
                position=position,
                least=0.9,
                all=every,
                inside=inside,
                expected=0.61,
                best="L3.N299",
                best_auroc=0.995,
                best_inside="L2.N103",
                best_inside_auroc=0.894,
            )
            for model, every, inside in (("aligned", 121, 2), ("unaligned", 90, 0))
            for position in Position
        ],
        "openings": Openings(
            refusal=[TAGGED, "I'm sorry, but"],
            compliance=["Sure, here", "1."],
            dropped=2,
            auroc=0.97,
            refusals=40,
            compliances=38,
            usable=True,
        ),
        "agreement": [
            Agreement(units="top", n=5, pearson=0.93, spearman=0.9),
            Agreement(units="random", n=20, pearson=None, spearman=None),
        ],
        "causal": [
            causal("set", "none", "aligned", 0.92),
            causal("set", "none", "unaligned", 0.05),
            causal("detection", "ablate", "aligned", 0.66),
            causal("mediation", "ablate", "aligned", 0.47),
            causal("steering", "ablate", "aligned", 0.31),
            causal("detection+mediation", "ablate", "aligned", 0.27),
            causal("set", "ablate", "aligned", 0.09),
            causal("detection", "patch", "unaligned", 0.14),
            causal("steering", "patch", "unaligned", 0.36),
            causal("set", "patch", "unaligned", 0.83),
        ],
        "flow": [
            flow(DETECTION, MEDIATION, 0.48, 0.02),
            flow(MEDIATION, STEERING, 0.33, 0.004),
            flow(DETECTION, STEERING, 0.06, 0.05),
        ],
        "direction": DirectionFigures(
            layer=5,
            position=-2,
            tried=40,
            log_odds=(-1.12, 3.21),
            auroc=within(Area, 0.96, 0.02),
            gap=11.2,
            set_writes=0.31,
            random_writes=0.011,
            cosines=[
                LayerCosines(
                    layer=layer,
                    unaligned=0.9 - 0.1 * layer,
                    chosen=-0.1 + 0.13 * layer,
                    writes=None if layer in (0, 1) else 0.4,
                )
                for layer in range(layers)
            ],
            refused={
                "intact": refused(0.92),
                "without_direction": refused(0.11),
                "without_set": refused(0.09),
                "without_both": refused(0.03),
                "unaligned": refused(0.05),
                "unaligned_with_direction": refused(0.97),
            },
            set_left=0.41,
            direction_left=0.57,
        ),
        "verdict": PipelineVerdict.PRESENT,
        "reasons": [
            "every stage has units in the set",
            "what detection says reaches mediation, and what mediation says reaches steering",
        ],
        "rules": "Present: all three stages have units, and every stage loses more than chance.",
    }
    return ExplanationCard(**{**figures, **changes})


def bare() -> ExplanationCard:
    """No steering, openings that say nothing, and no figure that may be missing."""
    full = card()
    neurons = [
        without(
            u,
            STEERING,
            detection={} if u.rank == 12 else u.detection,
            detection_unaligned={},
            mediation=None if u.layer == 7 else Figure(value=0.02, ci_low=None, ci_high=None),
            later=None,
            mediation_exact=None,
            steering=None,
            p={},
            own=None,
        )
        for u in units()
    ]
    nothing = Downstream(detection=None, direction=None, first_token=None, refusal_rate=None)
    rows = [
        row.model_copy(
            update={
                "detection": None,
                "first_token": None,
                "refusal_rate": refused(None),
                "random": row.random and nothing,
            }
        )
        for row in full.causal
        if row.stage != STEERING
    ]
    direction = full.direction.model_copy(
        update={"random_writes": None, "set_left": None, "refused": {"intact": refused(None)}}
    )
    return card(
        neurons=neurons,
        stages={stage: StageFigures(k=0) for stage in StageName},
        parts={stage: StageFigures(k=0) for stage in StageName},
        openings=Openings(
            refusal=[],
            compliance=[],
            dropped=0,
            auroc=None,
            refusals=1,
            compliances=0,
            usable=False,
        ),
        agreement=[],
        null=[LayerNull(layer=0, n=2, effects={})],
        causal=rows,
        flow=[
            Flow(
                source=DETECTION,
                target=MEDIATION,
                k_source=4,
                k_target=3,
                lost=-0.01,
                random=None,
                ci_low=None,
                ci_high=None,
            )
        ],
        direction=direction,
        verdict=PipelineVerdict.ABSENT,
        reasons=["no unit steers beyond chance"],
    )


def section(of: ExplanationCard, paged: set[str] | None = None) -> str:
    return rendered(
        "explanation.html.jinja",
        explanation=of,
        explained=explained,
        stage_charts=explanationcharts,
        pipeline=pipeline,
        noun=of.noun,
        paged=paged or set(),
        pages=None,
        views=(),
    )


def plain(text: str) -> str:
    """As it is read: without tags, on one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def drawn(of: ExplanationCard, size: str) -> ElementTree.Element:
    return ElementTree.fromstring(getattr(pipeline.pipeline_chart(of), size))


def titles(of: ExplanationCard, size: str) -> list[str]:
    return [e.text or "" for e in drawn(of, size).iter("title")]


VARIANTS = {
    "few": card,
    "many": lambda: card(neurons=many(600, 28), layers=28),
    "deep": lambda: card(neurons=many(300, 80), layers=80),
    "bare": bare,
    "empty": lambda: card(neurons=[], detectors=[], causal=[], flow=[], null=[], reasons=[]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_says_nothing_that_is_no_word(name):
    text = section(VARIANTS[name]())
    assert not re.search(r"\b(None|nan|inf)\b", text)
    assert "StageName" not in text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (PipelineVerdict.PRESENT, "The neurons work as a pipeline"),
        (PipelineVerdict.PARTIAL, "only in part"),
        (PipelineVerdict.ABSENT, "There is no pipeline"),
    ],
)
def test_the_first_sentence_says_whether_there_is_a_pipeline(verdict, said):
    of = card(verdict=verdict)
    first, *others = explained.finding(of)
    assert said in first
    assert others[0] == "Every stage has units in the set."
    assert others[-1].endswith("reaches steering.")
    assert f'<p class="finding">{first}</p>' in section(of)


def test_what_models_wrote_is_text():
    text = section(card())
    assert "<b>" not in text
    assert f"“{html.escape(TAGGED).replace('&#x27;', '&#39;')}”" in text


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_the_picture_has_each_unit_once_where_it_stands(size):
    of = card()
    said = titles(of, size)
    for u in of.neurons:
        for stage in StageName:
            found = [title for title in said if title.startswith(f"{u.unit} ({stage})")]
            assert len(found) == (stage is u.part)
            assert all(f"AUROC {words.number(u.detection[Position.END].auroc)}" in t for t in found)
    assert "layer 0: 1\u00a0neuron without a stage" in said


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_crowded_picture_says_how_many_it_leaves_out(size):
    of = card(neurons=many(600, 28), layers=28)
    said = titles(of, size)
    shown = sum("(detection)" in title for title in said)
    circles = list(drawn(of, size).iter("circle"))
    assert shown < len(of.of_part(DETECTION))
    left_out = sum(int(m[1]) for t in said if (m := re.search(r": (\d+) more with", t)))
    assert len(circles) + left_out == sum(u.part is not None for u in of.neurons)


@pytest.mark.parametrize("name", ["few", "many", "deep"])
@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_discs_stay_in_the_picture(name, size):
    picture = drawn(VARIANTS[name](), size)
    height = float(picture.get("height", 0))
    for circle in picture.iter("circle"):
        x, y, r = (float(circle.get(key, "nan")) for key in ("cx", "cy", "r"))
        assert r <= x <= WIDTHS[size] - r
        assert r <= y <= height - r


def test_areas_of_discs_are_effects():
    of = card()
    radii = {
        title.text.split(" ")[0]: float(circle.get("r", 0))
        for group in drawn(of, WIDE).iter("g")
        if (title := group.find("title")) is not None
        and (circle := group.find("circle")) is not None
        and title.text
        and "(mediation)" in title.text
    }
    assert len(radii) == 4
    assert (radii["L5.N101"] / radii["L4.N105"]) ** 2 == pytest.approx(5, rel=0.05)


def test_arrows_have_the_figures_of_the_card():
    text = plain(pipeline.pipeline_chart(card()).narrow)
    for said in ("48\u00a0% lost", "random 2\u00a0%", "33\u00a0% lost", "random 0\u00a0%"):
        assert said.replace("\u00a0", " ") in text
    assert "92 % → 31 % without steering" in text
    assert "random ones: 92 % → 89 %" in text
    classes = [e.get("class") for e in drawn(card(), WIDE).iter("polyline")]
    assert classes == ["flow s0", "flow s1", "flow weak s0", "flow s2"]


def test_a_stage_without_units_says_so():
    none = [without(u, STEERING) for u in units()]
    assert "no neuron stands out from its layer" in plain(
        pipeline.pipeline_chart(card(neurons=none)).wide
    )
    text = plain(pipeline.pipeline_chart(bare()).wide)
    assert "not measured: openings tell too little" in text
    assert "so that steering was not measured" in plain(section(bare()))


def test_figures_on_the_page_are_those_of_the_card():
    text = plain(section(card()))
    for said in (
        "the first 12 neurons by attribution (0.5 % of 2,400), on 64 harmful test prompts",
        "aligned without the whole set",
        "the aligned model refuses 92 % as it is; with neurons held at their means over "
        "harmless prompts: 66 % without detection (random 89 %)",
        "27 % without detection + mediation",
        "83 % given the whole set (random 6 %)",
        "Among the set’s 12 neurons there are 4 for detection, 4 for mediation and 4 for steering; "
        "with several stages 1, with none 1.",
        "121 tell harmful prompts from harmless ones",
        "2 of them are in the set, where 0.610 would be by chance",
        "the one chosen enters layer 5, at token 2 from the end of the prompt",
        "−1.12 instead of 3.21",
        "31.0 % of the gap",
        "the unaligned model with the direction added 97 %",
        "the neurons with the largest estimates (5): correlation 0.930, of ranks 0.900",
        "random neurons (20): correlation not defined",
        "8.00 % 7.97 to 8.03 %",
        "0.0100 · 0.0500 · 0.200",
    ):
        assert said in text, said


def test_detectors_that_are_not_in_the_set_are_told_from_none_in_the_model():
    aligned, unaligned = explained.detector_finding(card())
    assert "in the set, where" in aligned
    assert "in the model and not in the set" in unaligned
    none = [row.model_copy(update={"all": 0, "inside": 0}) for row in card().detectors]
    assert "they are not in the model" in explained.detector_finding(card(detectors=none))[0]


def test_units_with_pages_are_links():
    text = section(card(), {"L5.N101"})
    assert '<a href="#neuron-L5.N101">L5.N101</a>' in text
    assert text.count("#neuron-") == 1


def test_the_table_is_folded_and_ends():
    text = section(card(neurons=many(600, 28), layers=28))
    assert "The next 280" in text
    assert "the first 300 of 600" in text
    assert len(text) < 1e6


def test_the_picture_stands_alone():
    ElementTree.fromstring(standalone(pipeline.pipeline_chart(card()).wide))


def test_taking_out_and_putting_in_are_compared():
    rows = [
        causal("detection", "ablate", "aligned", 0.3),
        causal("detection", "patch", "unaligned", 0.6),
        causal("steering", "ablate", "aligned", 0.9),
        causal("steering", "patch", "unaligned", 0.6),
    ]
    said = explained.ways_finding(card(causal=rows))
    assert "agree for detection (without it fewer refusals" in said
    assert "they disagree for steering (without it no fewer" in said
    assert not explained.ways_finding(card(causal=rows[:1]))
