"""Peak memory of contrasting against the number of prompts, each in a process of its own."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safety_neurons.activations import ContrastSums, contrast
from safety_neurons.finding.accumulate import accumulate
from safety_neurons.models import ModelPair
from safety_neurons.progress import Silent

BATCH, PROMPT_TOKENS, NEW_TOKENS = 32, 24, 8


def contrast_random_prompts(n: int) -> float:
    """Contrast `n` random prompts on the embedded pair; peak resident memory in MB."""
    pair = ModelPair.embedded()
    rng = random.Random(0)
    tokens = [[rng.randrange(3, 40_000) for _ in range(PROMPT_TOKENS)] for _ in range(n)]
    answers = [[rng.randrange(3, 40_000) for _ in range(NEW_TOKENS)] for _ in range(n)]
    batches = [(tokens[i : i + BATCH], answers[i : i + BATCH]) for i in range(0, n, BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        sums = accumulate(
            ContrastSums.zero(pair.layout),
            batches,
            lambda prompts, completions: contrast(pair, prompts, completions),
            Path(folder) / "sums.safetensors",
            Silent(),
            "",
        )
    assert sums.positions == n * NEW_TOKENS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(few: int = 64, many: int = 1024) -> dict[str, Any]:
    """Peak memory for few and for many prompts, and their ratio."""
    peaks = {}
    for n in (few, many):
        command = [sys.executable, "-m", "benchmarks.contrast_memory", str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[n] = json.loads(done.stdout)
    return {
        "peak_mb": {str(n): round(peak) for n, peak in peaks.items()},
        "ratio": round(peaks[many] / peaks[few], 3),
    }


if __name__ == "__main__":
    print(json.dumps(contrast_random_prompts(int(sys.argv[1]))))
