"""The commands as a user runs them, and what is looked for in what they say."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from typer.testing import CliRunner

from safety_neurons.cli import app
from safety_neurons.progress import Silent

WORDS = [f"w{i}" for i in range(7, 80)]


def prompt_file(path: Path, n: int, start: int = 0) -> str:
    """Prompts of four words that no two files with other starts share."""
    rows = []
    for i in range(n):
        words = [WORDS[(start + 5 * i + j * (start + 3)) % len(WORDS)] for j in range(6)]
        rows.append({"prompt": " ".join(words), "text": " ".join(words)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def invoke(*arguments: object):
    transformers.logging.enable_progress_bar()  # each command has to turn it off, in a new process
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    # Of a conversion from GGUF the library's bar is all that tells how far it is.
    assert "Loading weights" not in result.output, "a library's bar, where our lines are"
    return result


def refused(result, *parts: str) -> None:
    """Exit code 2, one sentence with all `parts`, no traceback."""
    output = result.output
    assert result.exit_code == 2, output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in output
    flat = " ".join(output.split())
    for part in parts:
        assert part in flat, flat


def replaced(arguments: list[object], option: str, value: object) -> list[object]:
    changed = list(arguments)
    changed[changed.index(option) + 1] = value
    return changed


class Interrupting(Silent):
    """Ctrl-C in the middle of the loop whose label starts with `at`."""

    def __init__(self, at: str, after: int = 1) -> None:
        self.at, self.after = at, after

    def track(self, items, label, *, done=0):
        for i, item in enumerate(items):
            if label.startswith(self.at) and i == self.after:
                raise KeyboardInterrupt
            yield item
