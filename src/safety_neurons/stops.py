"""Stops from outside: Ctrl-C, a scheduler's SIGTERM, a closed terminal; all end alike.

This module imports nothing of weight: it is in force before anything else is loaded.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType

EXIT_STOPPED = 130
"""What a shell tells of a command that Ctrl-C ended."""

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_asked = False
_told = False


def listen() -> None:
    """Let each of the signals raise KeyboardInterrupt, once; ignored ones stay so (`nohup`)."""
    for number in _numbers():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, _stop)


def was_asked() -> bool:
    """Whether a stop came. Libraries may turn its KeyboardInterrupt into something else."""
    return _asked


def tell(sentence: str) -> None:
    """Say on the error stream how a stop ended."""
    global _told
    _told = True
    sys.stderr.write(f"{sentence}\n")


def was_told() -> bool:
    """Whether it was said already."""
    return _told


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    # Further signals must not tear what the first one tidies up. (Not SIG_IGN: Python complains
    # of one that came meanwhile.)
    for each in _numbers():
        signal.signal(each, _pass)
    raise KeyboardInterrupt


def _pass(number: int, frame: FrameType | None) -> None:
    pass
