"""Commands in pieces of at most 25 minutes, processes that go on where they were."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

PIECE = 25 * 60
"""Seconds after which a command is stopped, to go on in the next piece."""
STOPPED = 130
"""What the command line exits with when it was stopped and can go on."""


def piece(
    name: str, command: Sequence[str], log: Path, *, accepted: Collection[int] = (0,)
) -> None:
    """Run one piece of a command; exit if it fails.

    Args:
        name: for people.
        log: a file to add to.
        accepted: exit codes that are no failure.
    """  # noqa: DOC501
    began = time.monotonic()
    print(f"{name} …", flush=True)
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
    print(f"{name}: {(time.monotonic() - began) / 60:.1f} min", flush=True)
    if code not in (*accepted, STOPPED):
        sys.exit(f"'{name}' ended with {code}; what it said is at the end of {log}.")
