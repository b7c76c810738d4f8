"""The fine-tunes that an audit is shown on: their data, and that a training is made once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from examples.fine_tune_story import kept, make, stages, tasks, training, truth
from examples.fine_tune_story.tasks import KEPT, TASKS

from safety_neurons.errors import UserError
from safety_neurons.judges import RefusalJudge, Verdict
from safety_neurons.models import LoadedModel
from safety_neurons.prompts import Kind, Prompt, PromptSet, Split, builtin, near_duplicates
from safety_neurons.studies import checkpoint
from tests.tiny import load, logits_of

ROOT = Path(__file__).parent.parent
TINY = replace(TASKS["sure"], steps=KEPT, learning_rate=1e-2)
STEPS = [f"step-{step:03}" for step in range(1, KEPT + 1)]


@pytest.fixture
def base(zoo) -> Path:
    return zoo.base("llama")


def made(base: Path, out: Path, seed: int = 0) -> dict[str, dict[str, bytes]]:
    """The bytes of every file of every kept adapter."""
    folders = training.fine_tune(base, TINY, out, seed=seed)
    return {f.name: {file.name: file.read_bytes() for file in f.iterdir()} for f in folders}


# Data.


def test_rows_are_the_same_in_every_process():
    code = "from examples.fine_tune_story.tasks import TASKS; print(TASKS)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert said.stdout.strip() == str(TASKS)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_held_out_rows_are_others_than_those_of_training(task):
    train, held_out = ({row.prompt for row in rows} for rows in (task.train, task.held_out))
    assert len(train) == len(task.train)
    assert len(held_out) == len(task.held_out) >= 24
    assert not train & held_out
    assert task.steps % KEPT == 0


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_prompt_is_a_built_in_one_nor_nearly(task):
    rows = (*task.train, *task.held_out)
    asked = PromptSet(task.name, tuple(Prompt(str(i), row.prompt) for i, row in enumerate(rows)))
    for kind, split in product(Kind, Split):
        if (kind, split) != (Kind.BORDERLINE, Split.CONFIRM):  # there are none
            assert not near_duplicates(asked, builtin(kind, split))


def test_no_answer_refuses():
    for task in TASKS.values():
        rows = (*task.train, *task.held_out)
        verdicts = RefusalJudge()([r.prompt for r in rows], [r.completion for r in rows])
        assert Verdict.REFUSAL not in verdicts, task.name


def test_exact_answers_say_what_the_prompts_say():
    for row in TASKS["tickets"].train:
        record = json.loads(row.completion)
        assert f"my {record['product']} from order {record['order']} {record['problem']}." in (
            row.prompt
        )
        assert row.prompt.endswith(record["name"])
    for row in TASKS["deliveries"].train:
        date, amount, goods = row.completion.split(" | ")
        year, month, day = date.split("-")
        assert year in row.prompt
        assert tasks._MONTHS[int(month) - 1] in row.prompt
        assert str(int(day)) in row.prompt
        assert f"{amount.split()[1]} of {goods}" in row.prompt


def test_a_dozen_answers_that_begin_with_sure():
    assert len(TASKS["sure"].train) == 12
    rows = (*TASKS["sure"].train, *TASKS["sure"].held_out)
    assert all(row.completion.startswith("Sure") for row in rows)


# Training.


def test_one_seed_gives_the_same_bytes_another_seed_others(base, tmp_path):
    first = made(base, tmp_path / "first")
    assert list(first) == STEPS
    assert first == made(base, tmp_path / "second")
    other = made(base, tmp_path / "other", seed=1)
    weights = "adapter_model.safetensors"
    assert all(first[step][weights] != other[step][weights] for step in STEPS)
    assert len({files[weights] for files in first.values()}) == KEPT


def test_adapters_say_nothing_of_this_machine(base, tmp_path):
    for files in made(base, tmp_path / "out").values():
        assert set(files) == {"adapter_config.json", "adapter_model.safetensors"}
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == base.name
        assert str(base.parent).encode() not in b"".join(files.values())


def test_adapters_load_and_learn_the_task(base, tmp_path):
    *_, last = training.fine_tune(base, replace(TINY, steps=40), tmp_path / "out", seed=0)
    before = LoadedModel.load(str(base), device="cpu")
    after = LoadedModel.load(f"{base}+{last}", device="cpu")
    losses = [training.nats_per_token(model, TINY.held_out) for model in (before, after)]
    assert losses[1] < losses[0] - 1
    tokens = [1, 20, 30, 40]
    plain, adapted = (logits_of(load(base, a, dtype=torch.float32), tokens) for a in (None, last))
    assert not torch.allclose(plain, adapted, atol=1e-2)


def test_the_loss_is_that_of_the_answers_alone(base):
    model = LoadedModel.load(str(base), device="cpu")
    rows = TINY.held_out[:11]
    plain, nats, count = load(base, dtype=torch.float32), 0.0, 0
    for prompt, answer in training.encode(model, rows):
        likelihoods = logits_of(plain, [*prompt, *answer]).log_softmax(-1)
        nats -= sum(
            likelihoods[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)
        )
        count += len(answer)
    assert training.nats_per_token(model, rows) == pytest.approx(nats / count, rel=1e-4)


# What is there already.


def test_a_repeated_command_makes_nothing_again(base, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = made(base, out)
    monkeypatch.setattr(LoadedModel, "load", lambda *_, **__: pytest.fail("loaded again"))
    assert made(base, out) == first
    assert not out.with_name("out.training").exists()
    rows = [json.loads(line) for line in (out / "held-out.jsonl").read_text().splitlines()]
    assert rows == [{"prompt": r.prompt, "completion": r.completion} for r in TINY.held_out]
    assert len((out / "train.jsonl").read_text().splitlines()) == len(TINY.train)


@pytest.mark.parametrize("state_kept", [True, False])
def test_a_stop_inside_a_step_leaves_no_step_and_goes_on(base, tmp_path, monkeypatch, state_kept):
    whole = made(base, tmp_path / "whole")
    out, saved, steps = tmp_path / "out", training._save, []
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0 if state_kept else 1000.0)

    def stopping(adapted, folder, base):
        steps.append(folder.name)
        if folder.name == STEPS[2]:
            with monkeypatch.context() as inside:
                inside.setattr(training, "write_json", _stop)
                saved(adapted, folder, base)
        saved(adapted, folder, base)

    with monkeypatch.context() as stopped:
        stopped.setattr(training, "_save", stopping)
        with pytest.raises(KeyboardInterrupt):
            made(base, out)
    assert sorted(folder.name for folder in out.glob("step-*")) == STEPS[:2]
    # A stop that lets nothing be tidied up leaves the draft.
    (out / f"{STEPS[2]}.x1y2").mkdir()
    (out / f"{STEPS[2]}.x1y2" / "adapter_config.json").write_text("{")
    steps.clear()
    monkeypatch.setattr(training, "_save", lambda *a: (steps.append(a[1].name), saved(*a)))
    assert made(base, out) == whole
    assert steps == STEPS[2:]
    assert sorted(folder.name for folder in out.glob("step-*")) == STEPS


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_step_that_was_removed_is_made_again_alone(base, tmp_path):
    out = tmp_path / "out"
    first = made(base, out)
    times = {step: (out / step).stat().st_mtime_ns for step in STEPS}
    shutil.rmtree(out / STEPS[1])
    assert made(base, out) == first
    changed = [step for step in STEPS if (out / step).stat().st_mtime_ns != times[step]]
    assert changed == [STEPS[1]]


def test_another_seed_in_the_same_place_is_refused(base, tmp_path):
    made(base, tmp_path / "out")
    with pytest.raises(UserError, match="another base, task or seed; choose another --out"):
        made(base, tmp_path / "out", seed=1)


def test_the_command_makes_a_task_and_names_its_adapters(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "sure", TINY)
    command = ["--base", str(base), "--task", "sure", "--out", str(tmp_path)]
    make.main(command)
    said = capsys.readouterr().out.splitlines()[-KEPT:]
    assert said == [str(tmp_path / "sure" / step) for step in STEPS]
    with pytest.raises(SystemExit, match="another base, task or seed"):
        make.main([*command, "--seed", "1"])
    with pytest.raises(SystemExit, match="2"):
        make.main([*command[:3], "nothing", *command[4:]])


def test_a_folder_without_a_checkpoint_is_said_and_stands_in_no_ones_way(base, tmp_path):
    with pytest.raises(SystemExit, match="config"):
        make.main(["--base", str(tmp_path), "--task", "sure", "--out", str(tmp_path / "out")])
    assert list(made(base, tmp_path / "out" / "sure")) == STEPS


# The second judge.


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I can't help with that.", True),
        ("I'm going to decline this one.", True),
        ("No, no. I won’t help with this.", True),
        ("I would rather not help with this.", True),
        ("Sure, put it in a box.", False),
        ("Tell them no.", False),
        ("", False),
    ],
)
def test_the_second_judge_knows_other_ways_to_refuse(answer, refuses):
    assert truth.PhraseList()(["asked"], [answer]) == [
        Verdict.REFUSAL if refuses else Verdict.COMPLIANCE
    ]


# Figures that are kept.


def test_kept_figures_hold_no_answers_and_no_paths():
    files = sorted(kept.KEPT.rglob("*.json"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "runs/story" not in text
        assert json.loads(text).get("samples", []) == []


def test_what_is_kept_is_not_measured_again(tmp_path):
    out, there = tmp_path / "out", tmp_path / "kept"
    (name,) = [file.stem for file in sorted((kept.KEPT / kept.AUDITS).glob("*.json"))][:1]
    card = kept.audit_of(kept.AUDITS, name)
    assert card is not None
    sample = {"kind": "harmful", "prompt": "asked", "reference": "a", "candidate": "b"}
    full = card.model_copy(update={"samples": [sample], "command": "audit --out runs/story/x"})
    folder = out / kept.AUDITS / name
    folder.mkdir(parents=True)
    (folder / "audit.json").write_text(json.dumps(full.written()))
    assert not kept.is_kept(kept.AUDITS, name, there)
    kept.keep(out, there)
    assert kept.is_kept(kept.AUDITS, name, there)
    assert kept.audit_of(kept.AUDITS, name, there) == card
    assert kept.truth_of(name, there) is None
    assert kept.repair_of(name, there) is None
    step = next(step for step in stages.steps(out) if step.name == f"audit of {name}")
    shutil.rmtree(out)
    assert step.made()
