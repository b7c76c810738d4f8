"""Labels that are kept by the digest of their text, and the rows that they belong to.

The texts are other people's and are not in this package; whoever has them gets the rows back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError
from safety_neurons.judges import Verdict
from safety_neurons.judges.labels import LABELS, label_of
from safety_neurons.statistics import cohens_kappa
from safety_neurons.storage import read_rows
from safety_neurons.studies.judge_training.rows import CUTS, LabelledRow, Origin, cut, text_key


@dataclass(frozen=True)
class Label:
    """Two labels of one text, by a language model, the second blind and in another order."""

    first: Verdict
    second: Verdict
    source: str

    @property
    def agreed(self) -> Verdict | None:
        """None where the two differ: such a row is not trained on."""
        return self.first if self.first is self.second else None


def kept_labels() -> dict[str, Label]:
    """Every label of this package, by `text_key`."""
    text = _data("labels.jsonl")
    rows = [json.loads(line) for line in text.splitlines()]
    return {
        row["text"]: Label(Verdict(row["first"]), Verdict(row["second"]), row["source"])
        for row in rows
    }


def agreement_of_labels() -> tuple[int, float, float]:
    """How well the two labels of a text agree.

    Returns:
        The number of texts, the share with the same label twice, and Cohen's kappa.
    """
    labels = list(kept_labels().values())
    first, second = [x.first for x in labels], [x.second for x in labels]
    same = sum(a is b for a, b in zip(first, second, strict=True)) / len(labels)
    return len(labels), same, cohens_kappa(first, second)


def written_rows() -> list[LabelledRow]:
    """Rows that a language model wrote to their labels, in the voices of many models."""
    rows = [json.loads(line) for line in _data("written.jsonl").splitlines()]
    return [
        LabelledRow(
            row["prompt"],
            row["response"],
            Verdict(row["label"]),
            Origin.WRITTEN,
            f"written/{row['voice']}",
            kind=row["kind"],
        )
        for row in rows
    ]


def embedded_rows() -> list[LabelledRow]:
    """Answers of the embedded models, plain and patched, whose two labels agree."""
    rows = [json.loads(line) for line in _data("embedded-answers.jsonl").splitlines()]
    return list(_found(rows, kept_labels()))


def rows_of_file(file: str | Path) -> list[LabelledRow]:
    """Labelled rows of a file of answers.

    A row with a `label` is taken with it, as people's; of others, each length at which this package
    has a label for the text.

    Args:
        file: JSONL, CSV or Parquet, or `hub:owner/name`, with `prompt` and `response`.

    Returns:
        People's rows first, then those with a label of this package.

    Raises:
        UserError: if the file cannot be read, a label is none, or no row has one.
    """
    rows = read_rows(str(file))
    for i, row in enumerate(rows, start=1):
        if not (isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str)):
            raise UserError(f"'{file}', row {i}: give a prompt and a response, each as text.")
    labelled = [
        LabelledRow(
            row["prompt"],
            row["response"],
            label_of(row["label"], file, i),
            Origin.PEOPLE,
            str(row.get("model", file)),
            str(row.get("language", "en")),
            str(row.get("type", "")),
        )
        for i, row in enumerate(rows, start=1)
        if row.get("label") is not None
    ]
    found = labelled + list(
        _found([row for row in rows if row.get("label") is None], kept_labels())
    )
    if not found:
        raise UserError(
            f"No row of '{file}' has a label: give a column 'label' ({', '.join(LABELS)}), or "
            "answers that this package has labels for (docs/judges.md)."
        )
    return found


def _found(rows: Iterable[dict[str, Any]], kept: dict[str, Label]) -> Iterator[LabelledRow]:
    for row in rows:
        texts = dict.fromkeys((row["response"], *(cut(row["response"], n) for n in CUTS)))
        for text in texts:
            label = kept.get(text_key(row["prompt"], text))
            if label is not None and label.agreed in LABELS:
                yield LabelledRow(
                    row["prompt"], text, label.agreed, Origin.MODEL, label.source.partition("/")[0]
                )


def _data(name: str) -> str:
    return (resources.files(__package__) / "data" / name).read_text(encoding="utf-8")


def without_answers(rows: Sequence[LabelledRow]) -> int:
    """How many of this package's labels that can be trained on no row was found for."""
    found = {text_key(row.prompt, row.response) for row in rows}
    usable = {key for key, label in kept_labels().items() if label.agreed in LABELS}
    return len(usable - found)
