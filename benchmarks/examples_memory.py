"""Peak memory of looking for examples in few and in many tokens, each in its own process."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from benchmarks.contrast_memory import peak_mb, peaks_of
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
    return peaks_of("benchmarks.examples_memory", few, many)


if __name__ == "__main__":
    print(json.dumps(read_random_texts(int(sys.argv[1]))))
