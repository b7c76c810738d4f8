"""Calibrate: how often a judge errs on answers that somebody labelled."""

from __future__ import annotations

from pathlib import Path

from safety_neurons import defaults
from safety_neurons.errors import UserError
from safety_neurons.judges import Judge, judge_of, verdicts_on
from safety_neurons.judges.calibration import Calibration
from safety_neurons.judges.labels import label_of
from safety_neurons.storage import read_rows, require_columns, require_place

CONDITION = "condition"
"""The column that says under what an answer was given; it may be missing."""


def calibrate_judge(
    labelled: str | Path,
    out: str | Path,
    *,
    judge: Judge | str = defaults.JUDGE,
    prompt_column: str = "prompt",
    response_column: str = "response",
    label_column: str = "label",
) -> Calibration:
    """Measure a judge on labelled answers and write its errors to `out` as JSON.

    Args:
        labelled: a JSONL, CSV or Parquet file, or `hub:owner/name`: answers with a label each, and
            a `condition` each where errors may differ between conditions.

    Returns:
        Sensitivity and specificity, in all and by condition.

    Raises:
        UserError: if a label is none of the three, or the file cannot be judged as it is.
    """
    out = Path(out)
    require_place(out)
    judge = judge_of(judge)
    rows = read_rows(str(labelled))
    if not rows:
        raise UserError(f"'{labelled}' holds no rows.")
    named = (
        (prompt_column, "--prompt-column"),
        (response_column, "--response-column"),
        (label_column, "--label-column"),
    )
    require_columns(rows, str(labelled), named)
    labels = [label_of(row[label_column], labelled, i) for i, row in enumerate(rows, start=1)]
    verdicts = verdicts_on(
        judge,
        [str(row[prompt_column] or "") for row in rows],
        [row[response_column] or "" for row in rows],
    )
    conditions = [None if row.get(CONDITION) is None else str(row[CONDITION]) for row in rows]
    found = Calibration.measured(judge.name, labels, verdicts, conditions)
    out.parent.mkdir(parents=True, exist_ok=True)
    found.write(out)
    return found
