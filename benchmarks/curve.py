"""A curve's neuron sets patched side by side against one setting after another.

Both in this process on the embedded pair, in turn.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.paired_rows import seconds
from safety_neurons.engine import Side
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts
from safety_neurons.interventions import Patch
from safety_neurons.models import ModelPair
from safety_neurons.prompts import Kind, Split, builtin
from safety_neurons.units import UnitSet

PROMPTS, NEW_TOKENS, SHARES, CONTROLS = 16, 24, (0.002, 0.02), 3


def measure(dtype: torch.dtype, repeats: int = 5) -> dict[str, Any]:
    """Median seconds of both, and the median of the ratios pair by pair."""
    pair = ModelPair.embedded(dtype=dtype)
    decoding = Decoding(max_new_tokens=NEW_TOKENS)
    prompts = encode_prompts(pair, builtin(Kind.HARMFUL, Split.TRAIN).limited(PROMPTS), decoding)
    tops = [
        UnitSet.of(torch.arange(0, pair.space().total, round(1 / share)), pair.space())
        for share in SHARES
    ]
    sets = [*tops, *(top.matched_random(seed) for top in tops for seed in range(CONTROLS))]
    settings = [Setting(Side.UNALIGNED, (Patch(neurons),)) for neurons in sets]

    def side_by_side() -> object:
        return answer(pair, prompts, settings, decoding)

    def one_by_one() -> object:
        return [answer(pair, prompts, [setting], decoding) for setting in settings]

    side_by_side()
    times = [(seconds(side_by_side), seconds(one_by_one)) for _ in range(repeats)]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "prompts": PROMPTS,
        "new_tokens": NEW_TOKENS,
        "settings": len(settings),
        "repeats": repeats,
        "side_by_side_seconds": round(statistics.median(a for a, _ in times), 2),
        "one_by_one_seconds": round(statistics.median(b for _, b in times), 2),
        "ratio": round(statistics.median(b / a for a, b in times), 3),
        "ratios": [round(b / a, 3) for a, b in times],
    }
