"""Run the stages that are not done, each in pieces of at most 25 minutes (`make evidence`).

A piece is a process of its own, so that memory does not grow; one that is stopped goes on where it
was. When all stages of a pair stand, its figures are collected (`collect.py`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from evidence.collect import collect
from evidence.pairs import PAIRS
from evidence.pieces import piece
from evidence.stages import Stage, stability_stage, stages

COMMAND = (sys.executable, "-m", "safety_neurons")


def main() -> None:
    """Run what is left, and collect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--pairs", default=",".join(pair.name for pair in PAIRS))
    parser.add_argument("--pieces", type=int, default=1000, help="stop after so many pieces")
    parser.add_argument("--collect", action="store_true", help="only collect what stands")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    left = arguments.pieces
    wanted = [] if arguments.collect else list(_planned(arguments.out, arguments.pairs.split(",")))
    for stage in wanted:
        while not stage.done() and left:
            left -= 1
            _piece(stage, arguments.out)
        if not stage.done():
            break
    print(f"Collected: {collect(arguments.out)}")


def _planned(out: Path, names: list[str]) -> Iterator[Stage]:
    pairs = tuple(pair for pair in PAIRS if pair.name in names)
    if len(pairs) != len(names):
        sys.exit(
            f"There are the pairs {', '.join(pair.name for pair in PAIRS)}; name some of them."
        )
    for pair in pairs:
        yield from stages(pair, out)
    for pair in (pair for pair in pairs if pair.shipped):
        yield stability_stage(pair, out, pairs)


def _piece(stage: Stage, out: Path) -> None:
    if stage.prepare:
        stage.prepare()
    piece(stage.name, (*COMMAND, *stage.arguments), out / "log.txt")


if __name__ == "__main__":
    main()
