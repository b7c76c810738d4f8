"""Resident memory of batch after batch of patched decoding, as `validate` makes them.

Several neuron sets side by side on the embedded pair, in a process of its own whose
collector of cycles is off: what a finished batch held must go without it.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from safety_neurons.generation import Decoding, decode, encode_prompts
from safety_neurons.models import ModelPair, Side
from safety_neurons.neurons import NeuronSet
from safety_neurons.prompts import Kind, Split, builtin

SETTINGS, BATCH, NEW_TOKENS, SETTLED = 8, 4, 12, 4
"""Neuron sets; prompts of a batch; tokens of an answer; batches until memory has settled."""


def resident_mb(what: str = "VmRSS") -> float:
    """Resident memory of this process in MB, now or (`VmHWM`) at its highest."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024


def decode_batches(batches: int, prompts: int = BATCH, new_tokens: int = NEW_TOKENS) -> list[float]:
    """Resident memory in MB after each batch."""
    pair = ModelPair.embedded()
    decoding = Decoding(max_new_tokens=new_tokens)
    asked = encode_prompts(
        pair, builtin(Kind.HARMFUL, Split.TRAIN).limited(batches * prompts), decoding
    )
    top = NeuronSet.of(torch.arange(0, pair.layout.total, 50), pair.layout)
    sets = [top, *(top.matched_random(seed) for seed in range(SETTINGS - 1))]
    gc.collect()
    gc.disable()
    found = []
    for of_batch in decoding.batches(asked):
        for start in range(0, len(of_batch), prompts):
            now = [asked[i] for i in of_batch[start : start + prompts]]
            decode(pair, now, Side.UNALIGNED, sets, max_new_tokens=new_tokens)
            found.append(resident_mb())
    return found


def measure(batches: int = 16) -> dict[str, Any]:
    """Resident memory once it has settled and after the last batch, and their ratio."""
    command = [sys.executable, "-m", "benchmarks.validate_memory", str(batches)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {
        "settings": SETTINGS,
        "prompts": BATCH,
        "new_tokens": NEW_TOKENS,
        "batches": len(found),
        "resident_mb": [round(mb) for mb in found],
        "ratio": round(found[-1] / found[SETTLED - 1], 3),
    }


if __name__ == "__main__":
    print(json.dumps(decode_batches(*map(int, sys.argv[1:]))))
