"""A planted pipeline is found through `explain`, and one that is not there is not."""

from __future__ import annotations

import pytest

from safety_neurons.inference import Decoding
from safety_neurons.models import ModelPair
from safety_neurons.runs import RunFolder
from safety_neurons.runs.explanation import ExplanationCard, PipelineVerdict, StageName
from safety_neurons.studies.explanation import ExplainOptions, ExplanationPrompts, explain
from safety_neurons.studies.finding import FindOptions, find
from tests import planted

SHARE = 24 / (planted.LAYERS * planted.WIDTH)
OPTIONS = ExplainOptions(share=SHARE, exact=8, decoding=Decoding(8, 24))


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
    _, card = explained(tmp_path, of, seed)
    stages = {unit.unit: set(unit.stages) for unit in card.neurons}
    for stage, units in (
        (StageName.DETECTION, of.detectors),
        (StageName.MEDIATION, of.mediators),
        (StageName.STEERING, of.steerers),
    ):
        print(stage, [(u, stages.get(u)) for u in sorted(units)])
    print([(u, s) for u, s in stages.items() if u not in of.pipeline and s])
    print(card.verdict, *card.reasons, sep="\n")
    print(card.flow)
    assert card.verdict is PipelineVerdict.PRESENT


@pytest.mark.parametrize("seed", range(2))
def test_no_pipeline_is_called_so(tmp_path, seed):
    of = planted.plant_none(tmp_path, seed)
    _, card = explained(tmp_path, of, seed)
    print(card.verdict, *card.reasons, sep="\n")
    assert card.verdict is PipelineVerdict.ABSENT
