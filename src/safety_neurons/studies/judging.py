"""Judge: a verdict on each answer of a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError, reading
from safety_neurons.judges import Judge, Verdict, unfinished, verdicts_on
from safety_neurons.registry import JUDGES
from safety_neurons.storage import read_rows, require_place, write_jsonl

VERDICT = "verdict"
"""The column that is added."""


@dataclass(frozen=True)
class Judgement:
    """What a judge said of a file's answers.

    Args:
        rows: the file's, each with its verdict.
        judge: name and version.
        unfinished: answers that ended inside their reasoning; they are unscored.
    """

    rows: list[dict[str, Any]]
    judge: str
    unfinished: int

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many answers got each verdict, the most frequent first."""
        return dict(Counter(Verdict(row[VERDICT]) for row in self.rows).most_common())


def judge_answers(
    answers: str | Path,
    out: str | Path,
    *,
    judge: Judge | str = "refusal-rules",
    prompt_column: str = "prompt",
    response_column: str = "response",
) -> Judgement:
    """Judge the answers of a file and write its rows, with a verdict each, to `out` as JSONL.

    Args:
        answers: a JSONL, CSV or Parquet file, or `hub:owner/name`.
        judge: one of its own, or the name of a registered one.

    Returns:
        The rows and what was counted.

    Raises:
        UserError: if the file cannot be judged as it is, saying why.
    """
    out = Path(out)
    require_place(out)
    judge = JUDGES.get(judge) if isinstance(judge, str) else judge
    rows = read_rows(str(answers))
    if not rows:
        raise UserError(f"'{answers}' holds no rows to judge.")
    for column, option in ((prompt_column, "prompt"), (response_column, "response")):
        _require_column(rows, str(answers), column, option)
    with reading(answers, fault="holds what JSON cannot", remedy="leave out or rewrite the column"):
        json.dumps(rows, allow_nan=False)
    if out.exists() and Path(answers).exists() and out.samefile(answers):
        raise UserError(f"'{out}' is what is to be judged; name another file for the result.")
    if any(VERDICT in row for row in rows):
        raise UserError(
            f"'{answers}' has a column '{VERDICT}' already, which would be lost; rename or remove "
            "it."
        )
    responses = [row[response_column] or "" for row in rows]
    prompts = [str(row[prompt_column] or "") for row in rows]
    verdicts = verdicts_on(judge, prompts, responses)
    judged = [{**row, VERDICT: str(verdict)} for row, verdict in zip(rows, verdicts, strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, judged)
    return Judgement(judged, judge.name, unfinished(responses))


def _require_column(rows: list[dict[str, Any]], source: str, column: str, option: str) -> None:
    lacking = [i for i, row in enumerate(rows, start=1) if column not in row]
    if lacking:
        raise UserError(
            f"'{source}' has no column '{column}' in {len(lacking)} rows (the first is row "
            f"{lacking[0]}, with {', '.join(rows[lacking[0] - 1])}); name it with "
            f"--{option}-column."
        )
