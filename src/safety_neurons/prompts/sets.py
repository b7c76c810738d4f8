"""Prompt sets: the built-in one, and any JSONL, CSV, Parquet file or Hub data set."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from safety_neurons.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """One request, as a user would type it."""

    id: str
    text: str
    category: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order, with the name under which a run records them."""

    name: str
    prompts: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def digest(self) -> str:
        """First digits of the sha256 over all texts in order."""
        joined = "\x1e".join(self.texts)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def limited(self, limit: int | None, *, seed: int = 0) -> PromptSet:
        """At most `limit` prompts, drawn with `seed`, in their old order."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise UserError(f"A limit of {limit} leaves no prompts; give at least 1.")
        kept = sorted(random.Random(seed).sample(range(len(self)), limit))
        return PromptSet(self.name, tuple(self.prompts[i] for i in kept))

    def divided(self, share: float, *, seed: int = 0) -> tuple[PromptSet, PromptSet]:
        """Two disjoint sets, the first with `share` of the prompts (at least one each).

        Raises:
            UserError: with fewer than two prompts.
        """
        if len(self) < 2:
            raise UserError(
                f"'{self.name}' has {len(self)} prompt, and two disjoint parts are needed (one to "
                "choose on, one to test on); give more prompts."
            )
        size = min(max(round(share * len(self)), 1), len(self) - 1)
        drawn = set(random.Random(seed).sample(range(len(self)), size))
        parts: tuple[list[Prompt], list[Prompt]] = ([], [])
        for i, prompt in enumerate(self.prompts):
            parts[i not in drawn].append(prompt)
        return PromptSet(self.name, tuple(parts[0])), PromptSet(self.name, tuple(parts[1]))


def load_prompts(
    source: str | Path, *, column: str = "prompt", split: str | None = None
) -> PromptSet:
    """Read prompts from a `.jsonl`, `.csv` or `.parquet` file, or `hub:owner/name[:split]`.

    Args:
        column: where the prompt's text is.
        split: keep only rows whose column `split` has this value.

    Raises:
        UserError: if there is no such file or column, or nothing is left.
    """
    rows = list(read_rows(source))
    if split is not None:
        rows = [row for row in rows if row.get("split") == split]
    if not rows:
        raise UserError(f"'{source}' holds no prompts; give a file with at least one row.")
    missing = next((row for row in rows if column not in row), None)
    if missing is not None:
        raise UserError(
            f"'{source}' has no column '{column}' (it has {', '.join(missing)}); name it with "
            "--prompt-column."
        )
    faulty = [
        i
        for i, row in enumerate(rows)
        if not isinstance(row[column], str) or not row[column].strip()
    ]
    if faulty:
        raise UserError(
            f"'{source}' has {len(faulty)} rows without text in '{column}' (the first is row "
            f"{faulty[0] + 1}); fill or remove them."
        )
    prompts = (
        Prompt(str(row.get("id", i)), row[column].strip(), row.get("category"))
        for i, row in enumerate(rows)
    )
    return PromptSet(str(source), tuple(prompts))


def read_rows(source: str | Path) -> Iterable[dict[str, Any]]:
    """The rows of a data file or Hub data set, as dictionaries."""
    if str(source).startswith("hub:"):
        return _hub_rows(str(source)[len("hub:") :])
    path = Path(source)
    if not path.is_file():
        raise UserError(f"The file '{source}' does not exist; check the path.")
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise UserError(
            f"'{source}' is of no known kind; give a .jsonl, .csv or .parquet file, or "
            "hub:owner/name."
        )
    try:
        return readers[path.suffix](path)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"'{source}' is damaged or not in UTF-8 ({reason}); save it again."
        ) from error


def _jsonl_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    # Not splitlines: JSON may hold other line separators unescaped.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"Line {number} of '{path}' is not JSON ({error.msg}).") from error
        if not isinstance(row, dict):
            raise UserError(f"Line {number} of '{path}' is no JSON object with named columns.")
        rows.append(row)
    return rows


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    return parquet.read_table(path).to_pylist()


def _hub_rows(name: str) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(
            "Hub data sets need the 'datasets' package; install safety-neurons[hub-data]."
        ) from error
    owner_and_name, _, split = name.partition(":")
    try:
        return list(load_dataset(owner_and_name, split=split or "train"))
    except Exception as error:  # datasets raises many kinds, all of them about the name or network
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"The data set '{owner_and_name}' (split '{split or 'train'}') could not be loaded "
            f"({reason}); check the name and the network."
        ) from error
