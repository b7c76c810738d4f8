"""The command `safety-neurons`, also `python -m safety_neurons`: stops in order from the start.

Nothing of weight is imported before a stop would be answered: the imports take seconds.
"""

from __future__ import annotations

import sys
from typing import TextIO

from safety_neurons import stops
from safety_neurons.errors import EXIT_MISTAKE


def main() -> None:
    """Entry point."""
    stops.listen()
    _write_anything(sys.stdout)
    _write_anything(sys.stderr)
    _require_unicode(sys.argv)
    try:
        from safety_neurons.cli import app

        app()
    except BaseException:
        # Before a command that would say more, or behind it; also where a library made something
        # else of the interruption.
        if not stops.was_asked():
            raise
        if not stops.was_told():
            stops.tell("Stopped. Nothing was begun; run the same command again.")
        raise SystemExit(stops.EXIT_STOPPED) from None


def _write_anything(stream: TextIO | None) -> None:
    """A terminal that lacks a character shall not end a command when its work is done."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")


def _require_unicode(arguments: list[str]) -> None:
    """Names of files go into manifests and messages, which are UTF-8."""
    for argument in arguments[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            sys.stderr.write(f"{argument!r} is not in UTF-8; give names that are.\n")
            raise SystemExit(EXIT_MISTAKE) from None


if __name__ == "__main__":
    main()
