"""Seconds that `explain` takes on a run, from nothing kept: `python -m benchmarks.explaining RUN`.

Not part of `make bench`, which has no run to explain and no 20 minutes for it.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARE = 0.02


def measure(run: Path, share: float = SHARE) -> dict[str, Any]:
    """Explain a copy of a run without what it has kept, pages and all."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("state", "explanation.json"))
        command = [sys.executable, "-m", "safety_neurons", "explain", str(copy)]
        begun = time.monotonic()
        said = subprocess.run(
            [*command, "--share", str(share)], check=True, stdout=subprocess.PIPE, text=True
        )
        seconds = time.monotonic() - begun
        card = json.loads((copy / "explanation.json").read_text())
        pages = json.loads((copy / "neuron-pages.json").read_text())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "units": card["k"],
        "prompts": [card["n"], card["n_harmless"]],
        "pages": len(pages["pages"]),
        "tokens": pages["tokens"],
        "seconds": round(seconds),
        "processor_seconds": round(used.ru_utime + used.ru_stime),
        "peak_mb": round(used.ru_maxrss / 1024),
        "said": said.stdout.splitlines()[0],
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1])), indent=2))
