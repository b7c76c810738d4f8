"""What is wrong with an option is said before a model is looked for."""

from __future__ import annotations

import json

import pytest
import typer

from safety_neurons.cli import app
from tests.commands import invoke, refused

WRONG = {
    "--device": ("gpu9", "cannot be used"),
    "--dtype": ("int3", "bfloat16"),
    "--judge": ("nobody", "refusal-classifier"),
    "--ranking": ("magic", "change-score"),
    "--control-ranking": ("magic", "'magic'"),
    "--shares": ("2", ""),
    "--fitted": ("2", ""),
    "--strengths": ("much", ""),
    "--lengths": ("long", ""),
    "--share": ("2", ""),
    "--template-arg": ("thinking", "NAME=VALUE"),
    "--prompts": ("nowhere.jsonl", "nowhere.jsonl"),
    "--harmless": ("nowhere.jsonl", "nowhere.jsonl"),
    "--borderline": ("nowhere.jsonl", "nowhere.jsonl"),
    "--calibration": ("nowhere.json", "nowhere.json"),
}
"""By option: a wrong value, and what the sentence about it says."""
COMMANDS = {
    "run": "--out OUT",
    "find": "--aligned embedded:aligned --unaligned embedded:unaligned --out OUT",
    "validate": "RUN",
    "stability": "RUN",
    "fragility": "RUN",
    "explain": "RUN --prompts PROMPTS --harmless PROMPTS",
    "neuron": "RUN L0.N1",
    "audit": "--reference embedded:aligned --candidate embedded:unaligned --run RUN --out OUT",
    "repair": "--aligned embedded:aligned --candidate embedded:unaligned --run RUN --task TASK "
    "--out OUT",
    "generate": "RUN --share 0.1 --prompts PROMPTS --out OUT",
    "apply": "RUN --scale 2 --share 0.1 --out OUT",
    "align": "--out OUT",
}


def _options(command: str) -> set[str]:
    return {
        name
        for parameter in typer.main.get_command(app).commands[command].params
        for name in parameter.opts
    }


@pytest.mark.parametrize(
    ("command", "option"),
    [(name, option) for name in COMMANDS for option in WRONG if option in _options(name)],
)
def test_a_wrong_option_is_said_before_a_model_is_looked_for(
    command, option, whole_run, files, tmp_path, monkeypatch
):
    def looked(*_, **__):
        raise AssertionError("a model was looked for first")

    monkeypatch.setattr("safety_neurons.models.sources.resolve", looked)
    task = tmp_path / "task.jsonl"
    rows = [json.dumps({"prompt": f"a {i}", "completion": "b"}) for i in range(12)]
    task.write_text("\n".join(rows), encoding="utf-8")
    places = {
        "OUT": tmp_path / "out",
        "RUN": whole_run,
        "TASK": task,
        "PROMPTS": files["test"],
    }
    typed = [places.get(word, word) for word in COMMANDS[command].split()]
    value, said = WRONG[option]
    refused(invoke(command, *typed, option, value), said)
    assert not (tmp_path / "out").exists()


def test_every_command_that_loads_a_model_is_here():
    loading = {
        name for name in typer.main.get_command(app).commands if "--device" in _options(name)
    }
    assert loading == COMMANDS.keys()


def test_run_takes_what_find_and_validate_take():
    of_both = _options("find") | _options("validate")
    assert of_both - _options("run") == {"run", "--power"}  # the folder is its --out


def test_every_place_that_a_user_names_for_writing_is_out():
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        arguments = {p.name for p in command.params if p.param_type_name == "argument"}
        assert arguments <= {"run", "runs", "others", "neurons", "answers", "labelled", "folder"}, (
            name
        )
