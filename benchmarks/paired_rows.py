"""One patched setting with paired rows against plain `generate` of twice the rows.

Both run in this process on the embedded pair, in turn, so that the machine's mood hits both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from safety_neurons.engine import Side
from safety_neurons.inference import Setting, decode, left_padded
from safety_neurons.interventions import Patch
from safety_neurons.models import ModelPair
from safety_neurons.prompts import ChatFormat, Kind, Split, builtin, encode_all
from safety_neurons.units import UnitSet

ROWS, NEW_TOKENS, SHARE = 32, 32, 0.05


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(dtype: torch.dtype, repeats: int = 5) -> dict[str, Any]:
    """Median seconds of both, and the median of the ratios pair by pair."""
    pair = ModelPair.embedded(dtype=dtype)
    prompts = encode_all(
        builtin(Kind.HARMFUL, Split.TRAIN).limited(ROWS),
        pair.tokenizer,
        ChatFormat(),
        context_length=pair.context_length,
        max_new_tokens=NEW_TOKENS,
    )
    neurons = UnitSet.of(torch.arange(0, pair.space().total, round(1 / SHARE)), pair.space())
    twice = left_padded([*prompts, *prompts], pair)
    model = pair.sides[Side.UNALIGNED].model

    def patched() -> object:
        setting = Setting(Side.UNALIGNED, (Patch(neurons),))
        return decode(pair, prompts, [setting], max_new_tokens=NEW_TOKENS)

    def plain() -> object:
        return model.generate(
            input_ids=twice.ids,
            attention_mask=twice.mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=pair.tokenizer.pad_token_id,
        )

    patched(), plain()
    times = [(seconds(patched), seconds(plain)) for _ in range(repeats)]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "rows": ROWS,
        "new_tokens": NEW_TOKENS,
        "repeats": repeats,
        "patched_seconds": round(statistics.median(a for a, _ in times), 2),
        "plain_seconds": round(statistics.median(b for _, b in times), 2),
        "ratio": round(statistics.median(a / b for a, b in times), 3),
        "ratios": [round(a / b, 3) for a, b in times],
    }
