"""Every file that a command reads, damaged in many ways: a sentence and exit code 2, or no harm."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.commands import WORDS, invoke

Damage = Callable[[bytes], bytes]


def flipped(seed: int) -> Damage:
    """One bit of one byte, where `seed` says."""

    def flip(data: bytes) -> bytes:
        draw = random.Random(seed)
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(changed)

    return flip


def json_with(change: Callable[[dict], object]) -> Damage:
    """A change of the content, where it is a JSON object; else of the form."""

    def rewrite(data: bytes) -> bytes:
        try:
            content = json.loads(data)
            return json.dumps(change(content)).encode()
        except (ValueError, AttributeError, TypeError, KeyError, IndexError):
            return data[1:]

    return rewrite


def without_a_key(seed: int) -> Damage:
    def drop(content: dict) -> dict:
        name = random.Random(seed).choice(sorted(content))
        return {key: value for key, value in content.items() if key != name}

    return json_with(drop)


def another_type(seed: int, value: object) -> Damage:
    def replace(content: dict) -> dict:
        return {**content, random.Random(seed).choice(sorted(content)): value}

    return json_with(replace)


DAMAGES: dict[str, Damage] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "torn": lambda data: data[:-3],
    "grown": lambda data: data + b"\x00garbage",
    "twice": lambda data: data + data,
    "zeros": lambda data: bytes(len(data)),
    "not text": lambda data: b"\xff\xfe\xfa" + data,
    "null": lambda data: b"null",
    "a list": lambda data: b"[]",
    "a number": lambda data: b"3",
    "a text": lambda data: b'"text"',
    "deep": lambda data: b"[" * 100_000,
    **{f"bit {seed}": flipped(seed) for seed in range(4)},
    **{f"key {seed}": without_a_key(seed) for seed in range(4)},
    **{f"null key {seed}": another_type(seed, None) for seed in range(4)},
    **{f"list key {seed}": another_type(seed + 9, [[]]) for seed in range(4)},
    **{f"text key {seed}": another_type(seed + 19, "x") for seed in range(4)},
}


def damage(file: Path, name: str) -> None:
    if name == "lost":
        file.unlink()
    elif name == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(DAMAGES[name](file.read_bytes()))


EVERY = [*DAMAGES, "lost", "a folder"]


def survives(*arguments: object) -> bool:
    """Whether the command succeeds; else it must end with a sentence and exit code 2."""
    done = invoke(*arguments)
    told = done.output.strip()
    assert done.exit_code in (0, 2), (done.exit_code, told, done.exception)
    assert "Traceback" not in told
    if done.exit_code == 2:
        assert isinstance(done.exception, SystemExit)
        assert told.endswith("."), told
        assert len(told) < 1500, told
    return done.exit_code == 0


GONE = ("empty", "one byte", "zeros", "a number", "lost", "a folder")
"""After these a file cannot be understood, so that a command that needs it must not succeed."""


def results(run: Path) -> dict[str, bytes]:
    names = ("neurons.parquet", "completions.jsonl", "samples.jsonl", "report.html")
    return {name: (run / name).read_bytes() for name in names if (run / name).is_file()}


RUN_FILES = (
    "manifest.json",
    "neurons.parquet",
    "completions.jsonl",
    "samples.jsonl",
    "summary.json",
)


@pytest.mark.parametrize("name", RUN_FILES)
def test_damaged_run_folders(whole_run, find_arguments, validate_arguments, tmp_path, name):
    whole = results(whole_run)
    for how in EVERY:
        run = tmp_path / how / "run"
        shutil.copytree(whole_run, run)
        damage(run / name, how)
        kept = results(run)
        reported = survives("report", run)
        assert reported or results(run) == kept
        assert not (reported and how in GONE and name != "completions.jsonl"), how
        kept = results(run)
        if survives("validate", run, *validate_arguments):
            assert results(run)["samples.jsonl"] == whole["samples.jsonl"]
            assert survives("report", run) or name == "manifest.json"
        else:
            assert results(run) == kept
        if survives(*find_arguments, "--out", run):
            assert results(run)["neurons.parquet"] == whole["neurons.parquet"]
        shutil.rmtree(run)


def test_damaged_state(whole_run, validate_arguments, tmp_path):
    """Files that only save work: whatever is in them, the results are the same."""
    whole = results(whole_run)
    for how in EVERY:
        run = tmp_path / how / "run"
        shutil.copytree(whole_run, run)
        for file in sorted((run / "state").rglob("*")):
            if file.is_file():
                damage(file, how)
        assert survives("validate", run, *validate_arguments)
        assert results(run)["samples.jsonl"] == whole["samples.jsonl"]
        shutil.rmtree(run)


MODEL_FILES = (
    "base/config.json",
    "base/generation_config.json",
    "base/tokenizer.json",
    "base/tokenizer_config.json",
    "base/chat_template.jinja",
    "base/model.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)

OPTIONAL = ("base/generation_config.json", "base/tokenizer_config.json", "base/chat_template.jinja")


@pytest.mark.parametrize("name", MODEL_FILES)
def test_damaged_models(zoo, find_arguments, tmp_path, name):
    for how in EVERY:
        here = tmp_path / how
        base, adapter = zoo.source("llama", "ia3").split("+")
        shutil.copytree(base, here / "base")
        shutil.copytree(adapter, here / "adapter")
        damage(here / name, how)
        arguments = list(find_arguments)
        arguments[2], arguments[4] = f"{here / 'base'}+{here / 'adapter'}", here / "base"
        found = survives(*arguments, "--out", here / "run")
        assert found or not (here / "run/neurons.parquet").exists()
        assert not (found and how in GONE and name not in OPTIONAL), how
        shutil.rmtree(here)


def write_prompts(file: Path) -> None:
    rows = [{"prompt": " ".join(WORDS[i : i + 4]), "category": "a"} for i in range(0, 36, 4)]
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".csv":
        file.write_text("prompt,category\n" + "".join(f'"{r["prompt"]}",a\n' for r in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), file)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_damaged_prompts(find_arguments, tmp_path, kind):
    for how in EVERY:
        here = tmp_path / how
        here.mkdir()
        file = here / f"prompts.{kind}"
        write_prompts(file)
        damage(file, how)
        arguments = list(find_arguments)
        arguments[arguments.index("--prompts") + 1] = file
        found = survives(*arguments, "--out", here / "run")
        assert found or not (here / "run/neurons.parquet").exists()
        assert not (found and how in GONE), how
        survives("judge", file, "--out", here / "judged.jsonl", "--response-column", "prompt")
