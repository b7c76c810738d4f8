"""Run all benchmarks and write their figures as JSON (`make bench`)."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import (
    contrast_memory,
    curve,
    examples_memory,
    export_memory,
    fragility,
    paired_rows,
    validate_memory,
)
from safety_neurons.cli.options import quiet_libraries
from safety_neurons.environment import environment
from safety_neurons.models.devices import best_generation_dtype, default_device

RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    quiet_libraries()
    dtypes = sorted({torch.float32, best_generation_dtype(default_device())}, key=str)
    results = {
        "environment": environment(),
        "paired_rows": [paired_rows.measure(dtype) for dtype in dtypes],
        "curve": [curve.measure(dtype) for dtype in dtypes],
        "contrast_memory": contrast_memory.measure(),
        "validate_memory": validate_memory.measure(),
        "export_memory": export_memory.measure(),
        "fragility": fragility.measure(),
        "examples_memory": examples_memory.measure(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
