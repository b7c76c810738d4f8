"""Rows of JSON that are added batch by batch, so that a stop loses little."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safety_neurons.storage.digests import digest
from safety_neurons.storage.files import remove

_CHECK = "check"


class RowLog:
    """Rows kept in a file; each line holds a digest of its row.

    What a crash tore or anything else damaged is dropped with all that follows it, and made
    again: these files only save work.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if not path.exists():
            return
        whole = 0
        for line in self._lines():
            row = _checked(line)
            if row is None:
                break
            self.rows.append(row)
            whole += len(line)
        if whole == 0:
            remove(path)
        elif whole < path.stat().st_size:
            with path.open("r+b") as stream:
                stream.truncate(whole)

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []

    def extend(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = list(rows)
        with self.path.open("a", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps({**row, _CHECK: digest(row)}, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.rows += rows


def _checked(line: bytes) -> dict[str, Any] | None:
    """The row of a line, None if it is not what was written."""
    try:
        row = json.loads(line)
        given = row.pop(_CHECK)
        return row if line.endswith(b"\n") and digest(row) == given else None
    except Exception:  # whatever is in it, it is not what was written
        return None
