"""Peak memory of writing a changed checkpoint, and its largest shard, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contrast_memory import peak_mb
from safety_neurons.models.exporting import export
from safety_neurons.models.sources import Source, resolve


def export_embedded() -> dict[str, float]:
    """Write the embedded aligned model, adapter folded in; peak and largest shard in MB."""
    resolved = resolve(Source.parse("embedded:aligned"))
    with tempfile.TemporaryDirectory() as folder:
        written = export(resolved, Path(folder) / "out")
        shard = max(file.stat().st_size for file in written.glob("*.safetensors"))
    return {"peak_mb": round(peak_mb()), "largest_shard_mb": round(shard / 2**20)}


def measure() -> dict[str, Any]:
    """Peak memory, the largest shard, and what lies between them."""
    command = [sys.executable, "-m", "benchmarks.export_memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "beyond_shard_mb": found["peak_mb"] - found["largest_shard_mb"]}


if __name__ == "__main__":
    print(json.dumps(export_embedded()))
