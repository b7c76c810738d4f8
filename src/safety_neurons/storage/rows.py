"""The rows of data files and Hub data sets, each understood as a whole or refused.

A reader that goes on over what it does not understand loses text: a comma without quotes
ends a prompt, a key that stands twice hides the first. So every such row is an error that
names it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from safety_neurons.errors import UserError, reading

Row = dict[str, Any]


def read_rows(source: str | Path) -> list[Row]:
    """The rows of a `.jsonl`, `.csv` or `.parquet` file, or of `hub:owner/name[:split]`.

    Returns:
        Values by column for each row, in order; those of a `.csv` file are texts.

    Raises:
        UserError: if it is not there, or anything in it cannot be understood.
    """
    if str(source).startswith("hub:"):
        return _hub_rows(str(source)[len("hub:") :])
    path = Path(source)
    if os.path.isdir(path):
        raise UserError(f"'{source}' is a folder; name a file in it.")
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise UserError(
            f"'{source}' is of no known kind; give a .jsonl, .csv or .parquet file, or "
            "hub:owner/name."
        )
    return readers[path.suffix.lower()](_content(path), path)


def require_columns(rows: Sequence[Row], source: str, named: Sequence[tuple[str, str]]) -> None:
    """Demand that every row has some columns.

    Args:
        named: each column with the option that names it.

    Raises:
        UserError: naming the first row that lacks one.
    """
    for column, option in named:
        lacking = [i for i, row in enumerate(rows, start=1) if column not in row]
        if lacking:
            raise UserError(
                f"'{source}' has no column '{column}' in {len(lacking)} rows (the first is row "
                f"{lacking[0]}, with {', '.join(rows[lacking[0] - 1])}); name it with {option}."
            )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"The file '{path}' does not exist; check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"The file '{path}' cannot be read ({reason}); check the path and its rights."
        ) from error


def _text(content: bytes, path: Path) -> str:
    with reading(path, remedy="save it again as UTF-8"):
        return content.decode("utf-8-sig")


def _jsonl_rows(content: bytes, path: Path) -> list[Row]:
    # Not splitlines: JSON may hold other line separators unescaped.
    lines = enumerate(re.split(r"\r\n|\r|\n", _text(content, path)), start=1)
    return [_json_row(line, number, path) for number, line in lines if line.strip()]


def _json_row(line: str, number: int, path: Path) -> Row:
    with reading(f"{path}, line {number}", remedy="write one plain JSON object a line"):
        try:
            row = json.loads(
                line, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite
            )
        except json.JSONDecodeError as error:
            raise UserError(
                f"Line {number} of '{path}' is not JSON ({error.msg}); write one JSON object a "
                "line."
            ) from error
        # Half a character, such as "\ud800" alone, can be neither tokenized nor written.
        json.dumps(row, ensure_ascii=False).encode()
    if not isinstance(row, dict):
        raise UserError(f"Line {number} of '{path}' is no JSON object with named columns.")
    return row


def _once(pairs: list[tuple[str, Any]]) -> Row:
    twice = _repeated([key for key, _ in pairs])
    if twice:
        raise ValueError(f"the key '{twice}' stands twice")
    return dict(pairs)


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON; null means that there is nothing")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits} is too large")
    return value


def _csv_rows(content: bytes, path: Path) -> list[Row]:
    text = _text(content, path)
    if "\0" in text:
        raise UserError(
            f"'{path}' holds NUL characters, so it is damaged or not in UTF-8; save it again as "
            "UTF-8."
        )
    lines = _csv_lines(text, path)
    if not lines:
        return []
    names = [name.strip() for name in lines[0]]
    _require_columns(names, path)
    for number, fields in enumerate(lines[1:], start=1):
        if len(fields) != len(names):
            raise UserError(
                f"Row {number} of '{path}' has {len(fields)} fields where the header has "
                f"{len(names)}; a text with commas, quotes or line breaks needs quotes around it."
            )
    return [dict(zip(names, fields, strict=True)) for fields in lines[1:]]


def _csv_lines(text: str, path: Path) -> list[list[str]]:
    """The fields of every line that is not empty, the header's first."""
    lines: list[list[str]] = []
    try:
        for fields in csv.reader(io.StringIO(text, newline=""), strict=True):
            if any(field.strip() for field in fields):  # spreadsheets end in lines of commas
                lines.append(fields)
    except csv.Error as error:
        where = f"Row {len(lines)}" if lines else "The header"
        raise UserError(
            f"{where} of '{path}' is not CSV ({error}); close every quote, and write two for one "
            "inside a text."
        ) from error
    return lines


def _parquet_rows(content: bytes, path: Path) -> list[Row]:
    with reading(path, remedy="write the file again"):
        table = parquet.read_table(pa.BufferReader(content))
        _require_columns(table.column_names, path)
        return table.to_pylist()


def _require_columns(names: Sequence[str], path: Path) -> None:
    twice = _repeated(names)
    if "" in names:
        raise UserError(
            f"Column {names.index('') + 1} of '{path}' has no name; name or remove it (pandas "
            "writes one such for its index, unless told index=False)."
        )
    if twice:
        raise UserError(f"'{path}' has more than one column '{twice}'; rename or remove one.")


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _hub_rows(name: str) -> list[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(
            "Hub data sets need the 'datasets' package; pip install datasets."
        ) from error
    owner_and_name, _, split = name.partition(":")
    split = split or "train"
    with reading(
        f"hub:{owner_and_name}:{split}", remedy="check the name, the split and the network"
    ):
        return list(load_dataset(owner_and_name, split=split))
