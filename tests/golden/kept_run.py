"""Makes the run folders beside it, which show that what was made then still opens and reports.

    python -m tests.golden.kept_run NAME

Each was made at the commit that is named here, and is never made again:

- `run-format-1` at b0b0ced, the last that writes format 1 (without digests of results);
- `run-before-records` at 9405cd9, the last before manifest, summary and samples had types.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from safety_neurons.finding import find
from safety_neurons.validation import validate
from tests.tiny import Zoo

from safety_neurons import Decoding, FindOptions, ModelPair, TestPrompts, ValidateOptions
from safety_neurons.prompts import Prompt, PromptSet


def prompts(name: str, n: int, start: int) -> PromptSet:
    texts = [
        " ".join(f"w{7 + (start + 5 * i + j * (start + 3)) % 73}" for j in range(6))
        for i in range(n)
    ]
    return PromptSet(name, tuple(Prompt(str(i), t, "ab"[i % 2]) for i, t in enumerate(texts)))


def main(name: str) -> None:
    kept = Path(__file__).parent / name
    root = Path(tempfile.mkdtemp())
    zoo = Zoo(root)
    pair = ModelPair.load(zoo.source("llama", "ia3"), zoo.source("llama", None), device="cpu")
    decoding = Decoding(4, 4)
    run = find(pair, root / "run", prompts("find", 9, 0), FindOptions(decoding=decoding))
    tested = TestPrompts(
        prompts("select", 5, 11),
        prompts("test", 8, 29),
        prompts("harmless", 5, 23),
        prompts("borderline", 4, 37),
    )
    validate(run, pair, tested, ValidateOptions((0.05, 0.5), decoding=decoding, strengths=(0.5,)))
    shutil.rmtree(run.path / "state")
    shutil.copytree(run.path, kept)
    manifest = kept / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(root), "/models"))


if __name__ == "__main__":
    main(sys.argv[1])
