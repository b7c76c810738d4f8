"""Peak memory of looking for examples in few and in many tokens, each in its own process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any

from benchmarks.contrast_memory import peak_mb
from safety_neurons.engine import Side
from safety_neurons.methods.examples import Activity, Document, activity
from safety_neurons.models import ModelPair

TOKENS, BATCH, UNITS = 64, 16, 20
"""Of a document, documents of a batch, and units that are looked at."""


def read_random_texts(tokens: int) -> float:
    """Both models of the embedded pair read so many random tokens; peak resident memory in MB."""
    pair, rng = ModelPair.embedded(), random.Random(0)
    space = pair.space()
    found = {side: Activity.zero(space, UNITS) for side in Side}
    units = list(range(0, space.total, space.total // UNITS))[:UNITS]
    for first in range(0, tokens // TOKENS, BATCH):
        batch = [
            Document(first + i, tuple(rng.randrange(3, 40_000) for _ in range(TOKENS)))
            for i in range(BATCH)
        ]
        for side, sums in activity(pair, batch, space, units).items():
            found[Side(side)] += sums
    assert found[Side.ALIGNED].positions >= tokens - TOKENS * BATCH
    return peak_mb()


def measure(few: int = 3_072, many: int = 30_720) -> dict[str, Any]:
    """Peak memory for few and for many tokens, and their ratio."""
    # Without a fixed threshold glibc keeps freed blocks as it sees fit.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    peaks = {}
    for tokens in (few, many):
        command = [sys.executable, "-m", "benchmarks.examples_memory", str(tokens)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        peaks[tokens] = json.loads(done.stdout)
    return {
        "peak_mb": {str(n): round(peak) for n, peak in peaks.items()},
        "ratio": round(peaks[many] / peaks[few], 3),
    }


if __name__ == "__main__":
    print(json.dumps(read_random_texts(int(sys.argv[1]))))
