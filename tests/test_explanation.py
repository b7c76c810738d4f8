"""A planted pipeline is found through `explain`, and one that is not there is not."""

from __future__ import annotations

import pytest

from safety_neurons.inference import Decoding
from safety_neurons.models import ModelPair
from safety_neurons.runs import RunFolder, read_explanation
from safety_neurons.runs.explanation import ExplanationCard, PipelineVerdict, StageName
from safety_neurons.studies.explanation import ExplainOptions, ExplanationPrompts, explain
from safety_neurons.studies.finding import FindOptions, find
from tests import planted

SHARE = 24 / (planted.LAYERS * planted.WIDTH)
OPTIONS = ExplainOptions(share=SHARE, exact=8, pages=0, decoding=Decoding(8, 24))


def explained(folder, of, seed: int) -> tuple[RunFolder, ExplanationCard]:
    pair = ModelPair.load(str(of.aligned), str(of.unaligned), device="cpu")
    sets = {split: planted.prompts(seed, split) for split in planted.SPLITS}
    judge = planted.CannotJudge()
    options = FindOptions(rankings=("path-attribution",), decoding=Decoding(8, 24))
    harmful, harmless = sets["find"]
    run = find(pair, folder / "run", harmful, options, harmless=harmless)
    prompts = ExplanationPrompts(
        sets["find"][0], sets["find"][1], sets["select"][0], sets["test"][0], sets["test"][1]
    )
    return run, explain(run, pair, prompts, OPTIONS, judge=judge)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_pipeline_is_found(tmp_path, seed):
    of = planted.plant(tmp_path, seed)
    run, card = explained(tmp_path, of, seed)
    stages = {unit.unit: set(unit.stages) for unit in card.neurons}
    parts = {stage: {unit.unit for unit in card.of_part(stage)} for stage in StageName}
    for stage, units in (
        (StageName.DETECTION, of.detectors),
        (StageName.MEDIATION, of.mediators),
        (StageName.STEERING, of.steerers),
    ):
        assert all(stage in stages[unit] for unit in units)
        assert units <= parts[stage]
    # What else has a stage is what the false discovery rate allows.
    others = {unit for unit, of_unit in stages.items() if of_unit} - of.pipeline
    assert len(others) <= 1
    assert not others & of.decoys
    assert card.verdict is PipelineVerdict.PRESENT
    assert all(flow.lost > 0.9 and abs(flow.random or 0) < 0.1 for flow in card.flow)
    held = {row.stage: row for row in card.causal if row.intervention == "ablate"}
    given = {row.stage: row for row in card.causal if row.intervention == "patch"}
    for stage in StageName:
        assert held[stage].refusal_rate.refusal_rate == 0
        assert given[stage].refusal_rate.refusal_rate == 1
        assert held[stage].random.refusal_rate > 0.9
        assert given[stage].random.refusal_rate < 0.1
    # Detectors tell harm at its words, and nothing is left of it behind them.
    assert held["detection"].direction.value < 0.2 < 0.8 < held["steering"].direction.value
    assert card.openings.usable
    assert card.direction.refused["without_direction"].refusal_rate < 0.1
    assert read_explanation(run) == card


@pytest.mark.parametrize("seed", range(5))
def test_no_pipeline_is_called_so(tmp_path, seed):
    of = planted.plant_none(tmp_path, seed)
    _, card = explained(tmp_path, of, seed)
    assert card.verdict is PipelineVerdict.ABSENT
    assert {unit.unit for unit in card.of_stage(StageName.STEERING)} == of.steerers
    assert not card.of_stage(StageName.DETECTION)
    assert "0 for detection" in card.reasons[0]
