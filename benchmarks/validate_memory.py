"""Resident memory of batch after batch of patched decoding, as `validate` makes them.

Several neuron sets side by side on the embedded pair, in a process of its own whose
collector of cycles is off: what a finished batch held must go without it.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from safety_neurons.engine import Side
from safety_neurons.inference import Decoding, Setting, decode, encode_prompts
from safety_neurons.interventions import Patch
from safety_neurons.models import ModelPair
from safety_neurons.prompts import Kind, Split, builtin
from safety_neurons.units import UnitSet

SETTINGS, BATCH, NEW_TOKENS = 8, 4, 12
"""Settings, prompts of a batch, tokens of an answer."""
SETTLED = 4
"""So many batches may pass until memory must have settled."""


def decode_batches(count: int) -> list[float]:
    """Resident memory in MB after each of `count` batches."""
    pair = ModelPair.embedded()
    decoding = Decoding(max_new_tokens=NEW_TOKENS, batch_size=BATCH)
    prompts = builtin(Kind.HARMFUL, Split.TRAIN).limited(count * BATCH)
    asked = encode_prompts(pair, prompts, decoding)
    top = UnitSet.of(torch.arange(0, pair.space().total, 50), pair.space())
    sets = [top, *(top.matched_random(seed) for seed in range(SETTINGS - 1))]
    settings = [Setting(Side.UNALIGNED, (Patch(units),)) for units in sets]
    gc.collect()
    gc.disable()
    found = []
    for batch in decoding.batches(asked):
        tokens = [asked[i] for i in batch]
        decode(pair, tokens, settings, max_new_tokens=NEW_TOKENS)
        found.append(_resident_mb())
    return found


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def measure(count: int = 12) -> dict[str, Any]:
    """Resident memory after every batch, and that after the last by that when it had settled."""
    # Without a fixed threshold glibc keeps freed blocks as it sees fit.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    command = [sys.executable, "-m", "benchmarks.validate_memory", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    found = json.loads(done.stdout)
    return {
        "settings": SETTINGS,
        "prompts": BATCH,
        "new_tokens": NEW_TOKENS,
        "resident_mb": [round(mb) for mb in found],
        "ratio": round(found[-1] / found[SETTLED - 1], 3),
    }


if __name__ == "__main__":
    print(json.dumps(decode_batches(int(sys.argv[1]))))
