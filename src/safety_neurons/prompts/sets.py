"""Prompt sets: texts in a fixed order, from rows of any file or Hub data set."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError
from safety_neurons.storage.rows import Row, read_rows


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
        """First digits of the sha256 over all texts in order, as a JSON list."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """For manifests: name, size and digest."""
        return {"name": self.name, "n": len(self), "sha256": self.digest}

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

        Returns:
            The prompts drawn with `seed`, and the rest; name and order stay.

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

    Returns:
        Prompts in the order of their rows; one without an `id` is named by its row, from 0.

    Raises:
        UserError: if there is no such file or column, anything in it cannot be understood, or
            nothing is left.
    """
    return prompts_of(read_rows(source), source, column=column, split=split)


def prompts_of(
    rows: Sequence[Row], source: str | Path, *, column: str = "prompt", split: str | None = None
) -> PromptSet:
    """As `load_prompts`, from the rows of `source` when they are read already."""
    kept = list(enumerate(rows))
    if split is not None:
        kept = [(i, row) for i, row in kept if _label(row, i, "split", source) == split]
    if not kept:
        raise UserError(_nothing_left(rows, source, split))
    missing = next((row for _, row in kept if column not in row), None)
    if missing is not None:
        raise UserError(
            f"'{source}' has no column '{column}' (it has {', '.join(missing)}); name it with "
            "--prompt-column."
        )
    faulty = [i for i, row in kept if not isinstance(row[column], str) or not row[column].strip()]
    if faulty:
        raise UserError(
            f"'{source}' has {len(faulty)} rows without text in '{column}' (the first is row "
            f"{faulty[0] + 1}); fill or remove them."
        )
    prompts = (
        Prompt(
            _label(row, i, "id", source) or str(i),
            row[column].strip(),
            _label(row, i, "category", source),
        )
        for i, row in kept
    )
    return PromptSet(str(source), tuple(prompts))


def splits_of(rows: Sequence[Row], source: str | Path) -> set[str]:
    """What stands in the column `split` of the rows of `source`."""
    labels = (_label(row, i, "split", source) for i, row in enumerate(rows))
    return {label for label in labels if label is not None}


def _nothing_left(rows: Sequence[Row], source: str | Path, split: str | None) -> str:
    if not rows:
        return f"'{source}' holds no prompts; give a file with at least one row."
    there = ", ".join(sorted(splits_of(rows, source))) or "no splits"
    return f"'{source}' holds no prompts of the split '{split}' (it has {there}); name another."


def _label(row: Row, i: int, column: str, source: str | Path) -> str | None:
    """The text in a column that names things.

    Names are compared, sorted and grouped, so that a number in one row and a text in another
    must be of one type.

    Returns:
        The value as a text; None for None, an empty text and NaN.

    Raises:
        UserError: for a value of several parts, such as a list, and for bytes.
    """
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Mapping | list | tuple | set | bytes):
        raise UserError(
            f"Row {i + 1} of '{source}' has a {type(value).__name__} in '{column}', which names "
            "things by a text; write a text, or rename the column."
        )
    return str(value).strip() or None
