"""Run the stages that are not done, each in pieces of at most 25 minutes (`make evidence`).

A piece is a process of its own, so that memory does not grow; one that is stopped goes on where it
was. When all stages of a pair stand, its figures are collected (`collect.py`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from evidence.collect import collect
from evidence.pairs import PAIRS
from evidence.stages import Stage, stability_stage, stages

PIECE = 25 * 60
"""Seconds after which a command is stopped, to go on in the next piece."""
STOPPED = 130
"""What the command line exits with when it was stopped and can go on."""
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
    command = [*COMMAND, *stage.arguments]
    began = time.monotonic()
    print(f"{stage.name} …", flush=True)
    log = out / "log.txt"
    with log.open("a", encoding="utf-8") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT)
        try:
            code = process.wait(PIECE)
        except subprocess.TimeoutExpired:
            process.terminate()
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    print(f"{stage.name}: {(time.monotonic() - began) / 60:.1f} min", flush=True)
    if code not in (0, STOPPED):
        sys.exit(f"'{stage.name}' ended with {code}; what it said is at the end of {log}.")


if __name__ == "__main__":
    main()
