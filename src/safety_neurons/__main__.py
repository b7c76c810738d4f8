"""The command `safety-neurons`, also `python -m safety_neurons`: stops in order from the start.

Nothing of weight is imported before a stop would be answered: the imports take seconds.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType

from safety_neurons.errors import EXIT_STOPPED

_STOPS = ("SIGTERM", "SIGHUP")


def main() -> None:
    """Entry point."""
    stop_like_ctrl_c()
    try:
        from safety_neurons.cli import app

        app()
    except KeyboardInterrupt:
        # Before a command that would say more, or behind it.
        sys.stderr.write("Stopped. Nothing was begun; run the same command again.\n")
        raise SystemExit(EXIT_STOPPED) from None


def stop_like_ctrl_c() -> None:
    """Let a scheduler's stop, and a terminal that is closed, raise KeyboardInterrupt.

    Signals that are ignored stay so (`nohup`).
    """
    for name in _STOPS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    # A second signal must not tear what the first one tidies up.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
