"""Fixtures of all tests: one processor thread, no network, tiny models made once."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch
import transformers

from tests.commands import invoke, prompt_file
from tests.tiny import Zoo


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def _softmax_in_float64():
    """Let transformers' eager attention, Gemma 2's default, work in float64.

    It takes the softmax in float32, where the float64 mask's lowest number becomes -inf, so
    that every padding position, and with it every padded row, is NaN. In the precisions that
    the package is used with nothing is changed.
    """
    plain = torch.nn.functional.softmax

    def softmax(input, dim=None, _stacklevel=3, dtype=None):
        return plain(input, dim, dtype=None if input.dtype == torch.float64 else dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", softmax)
        yield


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Zoo:
    """Tiny checkpoints, adapters and pairs, made on first use and kept for the session."""
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("prompts")
    return {
        "find": prompt_file(folder / "find.jsonl", 9, start=0),
        "test": prompt_file(folder / "test.jsonl", 12, start=11),
        "harmless": prompt_file(folder / "harmless.jsonl", 5, start=23),
        "borderline": prompt_file(folder / "borderline.jsonl", 4, start=37),
        "find-harmless": prompt_file(folder / "find-harmless.jsonl", 6, start=43),
    }


@pytest.fixture(scope="session")
def find_arguments(zoo, files) -> list[object]:
    return [
        "find",
        "--aligned",
        zoo.source("llama", "ia3"),
        "--unaligned",
        zoo.source("llama", None),
        "--prompts",
        files["find"],
        "--harmless",
        files["find-harmless"],
        "--max-new-tokens",
        4,
        "--batch-size",
        4,
        "--device",
        "cpu",
    ]


@pytest.fixture(scope="session")
def validate_arguments(files) -> list[object]:
    return [
        "--prompts",
        files["test"],
        "--harmless",
        files["harmless"],
        "--borderline",
        files["borderline"],
        "--shares",
        "0.05,0.5",
        "--max-new-tokens",
        4,
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]


@pytest.fixture(scope="session")
def whole_run(find_arguments, validate_arguments, tmp_path_factory) -> Path:
    """A run with all stages complete, for all tests."""
    run = tmp_path_factory.mktemp("runs") / "run"
    for command in ((*find_arguments, "--out", run), ("validate", run, *validate_arguments)):
        done = invoke(*command)
        assert done.exit_code == 0, done.output
    assert invoke("report", run).exit_code == 0
    return run
