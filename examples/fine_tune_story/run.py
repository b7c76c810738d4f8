"""Tell the story: fine-tune, audit, repair, audit again, in pieces of at most 25 minutes.

    python -m examples.fine_tune_story.run

What is made already is not made again; two that run side by side with --part 0/2 and --part 1/2
share the work. The page is docs/fine-tune-story.md (`collect.py`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence.pieces import piece
from examples.fine_tune_story.collect import collect
from examples.fine_tune_story.stages import Step, steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is left, and collect."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/story"))
    parser.add_argument("--only", default="", help="steps whose names begin so")
    parser.add_argument("--part", default="0/1", help="every so many-th step, from which: 0/2")
    parser.add_argument("--collect", action="store_true", help="only collect what stands")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    first, every = (int(number) for number in asked.part.split("/"))
    wanted = [step for step in steps(asked.out) if step.name.startswith(asked.only)]
    for step in [] if asked.collect else wanted[first::every]:
        _done(step, asked.out)
    print(f"Collected: {collect(asked.out)}")


def _done(step: Step, out: Path) -> None:
    while not step.made():
        command = (sys.executable, "-m", *step.arguments)
        piece(step.name, command, out / "log.txt", accepted=step.accepted)


if __name__ == "__main__":
    main()
