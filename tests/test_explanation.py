"""A planted pipeline is found through `explain`, and one that is not there is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from safety_neurons.inference import Decoding
from safety_neurons.models import ModelPair
from safety_neurons.progress import Silent
from safety_neurons.runs import RunFolder, read_explanation
from safety_neurons.runs.explanation import (
    DIRECTION,
    EXPLANATION,
    ExplanationCard,
    PipelineVerdict,
    StageName,
)
from safety_neurons.studies.explanation import ExplainOptions, ExplanationPrompts, explain
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.validation import TestPrompts, ValidateOptions, validate
from tests import planted
from tests.commands import Interrupting, invoke, refused

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


# The command.


def rows(file: Path, prompts, split: str, *, more: bool = False) -> None:
    with file.open("a" if more else "w") as opened:
        for prompt in prompts:
            opened.write(json.dumps({"prompt": prompt.text, "split": split}) + "\n")


@pytest.fixture(scope="module")
def run_and_files(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A validated run of a planted pair, and files of harmful and harmless prompts."""
    folder = tmp_path_factory.mktemp("command")
    of = planted.plant(folder, 1)
    pair = ModelPair.load(str(of.aligned), str(of.unaligned), device="cpu")
    sets = {split: planted.prompts(1, split) for split in planted.SPLITS}
    options = FindOptions(rankings=("path-attribution",), decoding=Decoding(8, 24))
    run = find(pair, folder / "run", sets["find"][0], options, harmless=sets["find"][1])
    harmful, harmless = folder / "harmful.jsonl", folder / "harmless.jsonl"
    for more, split in enumerate(("select", "test")):
        rows(harmful, sets[split][0], split, more=bool(more))
        rows(harmless, sets[split][1], split, more=bool(more))
    tested = TestPrompts.of_files(str(harmful), str(harmless), str(harmless))
    shares = ValidateOptions(shares=(0.02,), controls=1, decoding=Decoding(8, 24))
    validate(run, pair, tested, shares)
    return run.path, harmful, harmless


FEW = ("--controls", 1, "--exact", 2, "--pages", 2, "--tokens", 300, "--limit", 12)


def test_the_command_and_what_becomes_of_it_in_the_report(run_and_files):
    run, harmful, harmless = run_and_files
    own = ("--prompts", harmful, "--harmless", harmless)
    done = invoke("explain", run, "--share", SHARE, *own, *FEW, "--max-new-tokens", 8)
    assert done.exit_code == 0, done.output
    assert "Pipeline: present" in done.output
    card = read_explanation(RunFolder.open(run))
    assert card is not None
    assert (card.n, card.k) == (12, 24)
    with safe_open(run / DIRECTION, "pt") as file:
        told = file.metadata()
        assert told["layer"] == str(card.direction.layer)
        assert {"models", "harmful", "harmless", "chosen_on"} <= told.keys()
        assert file.get_tensor("difference").shape == (planted.LAYERS, planted.HIDDEN)
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    for said in (
        "What the neurons do",
        "The neurons work as a pipeline",
        'id="neuron-',
        *(f'href="#neuron-{unit.unit}"' for unit in card.neurons[:2]),
    ):
        assert said in page
    assert (run / "figure-pipeline.svg").is_file()
    named = card.neurons[0].unit
    looked = invoke("neuron", run, named, "--tokens", 300)
    assert looked.exit_code == 0, looked.output
    assert "Stages: detection" in looked.output


def test_a_stopped_explanation_measures_nothing_twice(run_and_files, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(run_and_files[0], run)
    arguments = ("explain", run, "--share", SHARE, "--prompts", run_and_files[1])
    arguments += ("--harmless", run_and_files[2], *FEW)
    if not (run / EXPLANATION).is_file():  # tests of one file may run in several processes
        assert invoke(*arguments).exit_code == 0
    arguments += ("--seed", 5)
    monkeypatch.setattr("safety_neurons.cli.options.bars", lambda: Interrupting("Each layer", 0))
    stopped = invoke(*arguments)
    assert stopped.exit_code == 130, stopped.output
    kept = {file.name: file.stat().st_mtime_ns for file in (run / "state/explain").iterdir()}
    assert any(name.startswith("steering") for name in kept)
    before = (run / EXPLANATION).read_bytes()  # the earlier card stands until a new one does
    monkeypatch.setattr("safety_neurons.cli.options.bars", Silent)
    damaged = next(file for file in (run / "state/explain").glob("mediation-*"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert invoke(*arguments).exit_code == 0
    for file in (run / "state/explain").iterdir():
        if file.name in kept and file != damaged:
            assert file.stat().st_mtime_ns == kept[file.name]
    assert (run / EXPLANATION).read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompts", "x.jsonl"), "--harmless"),
        (("--share", 0), "fraction"),
        (("--ranking", "dice"), "no ranking 'dice'"),
        (("--share", 1e-9), "no neuron at all"),
        (("--judge", "nobody"), "nobody"),
    ],
)
def test_what_cannot_be_explained_is_said(run_and_files, arguments, said):
    refused(invoke("explain", run_and_files[0], *arguments, *FEW), said)


def test_no_run_is_said(tmp_path):
    refused(invoke("explain", tmp_path / "none"), "none")
