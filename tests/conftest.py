"""Fixtures of all tests: one processor thread, no network, tiny models made once."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import transformers

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
