"""Peak memory of contrasting against the number of prompts, each in a process of its own."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safety_neurons.methods import ContrastSums, contrast
from safety_neurons.methods.accumulation import accumulate
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
            ContrastSums.zero(pair.space()),
            batches,
            lambda prompts, completions: contrast(pair, prompts, completions),
            Path(folder) / "sums.safetensors",
            Silent(),
            "",
        )
    assert sums.positions == n * NEW_TOKENS
    return peak_mb()


def peak_mb() -> float:
    """From /proc, because getrusage of a child also counts the parent that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def peaks_of(module: str, few: int, many: int) -> dict[str, Any]:
    """Peaks that a benchmark's module prints for two sizes, each in a process, and their ratio."""
    # Without a fixed threshold glibc keeps freed blocks as it sees fit, and the peak of the
    # same work differs by several per cent from run to run.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    peaks = {}
    for n in (few, many):
        command = [sys.executable, "-m", module, str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        peaks[n] = json.loads(done.stdout)
    return {
        "peak_mb": {str(n): round(peak) for n, peak in peaks.items()},
        "ratio": round(peaks[many] / peaks[few], 3),
    }


def measure(few: int = 64, many: int = 1024) -> dict[str, Any]:
    """Peak memory for few and for many prompts, and their ratio."""
    return peaks_of("benchmarks.contrast_memory", few, many)


if __name__ == "__main__":
    print(json.dumps(contrast_random_prompts(int(sys.argv[1]))))
