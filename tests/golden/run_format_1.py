"""Makes `run-format-1/`, a run folder as it was written before results had digests.

Run it at commit b0b0ced, the last that writes format 1, as

    python -m tests.golden.run_format_1

and not later: the folder shows that what was made then still opens and reports.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.tiny import Zoo

from safety_neurons import Decoding, FindOptions, ModelPair, TestPrompts, ValidateOptions
from safety_neurons.finding import find
from safety_neurons.prompts import Prompt, PromptSet
from safety_neurons.validation import validate

KEPT = Path(__file__).parent / "run-format-1"


def prompts(name: str, n: int, start: int) -> PromptSet:
    texts = [
        " ".join(f"w{7 + (start + 5 * i + j * (start + 3)) % 73}" for j in range(6))
        for i in range(n)
    ]
    return PromptSet(name, tuple(Prompt(str(i), t, "ab"[i % 2]) for i, t in enumerate(texts)))


def main() -> None:
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
    shutil.copytree(run.path, KEPT)
    manifest = KEPT / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(root), "/models"))


if __name__ == "__main__":
    main()
