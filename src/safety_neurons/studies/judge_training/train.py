"""Train a judge of refusals, and say how far it can be trusted."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError
from safety_neurons.judges.classifier import CARD, FILE, Weights
from safety_neurons.progress import Progress, Silent
from safety_neurons.storage import digest, require_place, write_json
from safety_neurons.studies.judge_training.agreement import HeldOut, held_out
from safety_neurons.studies.judge_training.composing import LANGUAGES, composed
from safety_neurons.studies.judge_training.fitting import Examples
from safety_neurons.studies.judge_training.labels import (
    agreement_of_labels,
    embedded_rows,
    rows_of_file,
    without_answers,
    written_rows,
)
from safety_neurons.studies.judge_training.rows import LabelledRow

COMPOSED_ROWS = 600
"""Of each language."""


@dataclass(frozen=True)
class TrainedJudge:
    """What a training made.

    Args:
        folder: holds the weights and `card.json`.
        name: what the judge calls itself.
        rows: it was trained on.
        missing: labels of this package that no row was found for.
    """

    folder: Path
    name: str
    rows: int
    missing: int
    agreement: HeldOut


def train_judge(
    out: str | Path,
    answers: Sequence[str | Path] = (),
    *,
    version: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainedJudge:
    """Train the classifier of refusals and write it to the folder `out`.

    Args:
        answers: files of answers: rows with a label of people's, or answers that this package keeps
            labels for. What is composed, written, or answered by the embedded models needs none.
        version: what the judge is called by; by default a digest of what it was trained on.
        seed: of the composed rows and of the folds.

    Returns:
        The judge, with its agreement on rows that were left out in turn; `card.json` has the same.

    Raises:
        UserError: if `out` exists, a file holds no labelled answers, or scikit-learn is missing.
    """
    out, progress = Path(out), progress or Silent()
    if out.exists():
        raise UserError(f"'{out}' exists already; choose another --out or remove it.")
    require_place(out, folder=True)
    rows = [row for file in answers for row in rows_of_file(file)]
    rows = list(dict.fromkeys([*rows, *embedded_rows(), *written_rows()]))
    missing = without_answers(rows)
    rows += composed(COMPOSED_ROWS, seed=seed)
    version = version or digest([repr(row) for row in rows])[:8]
    weights = Examples.of(rows).fit()
    found = held_out(rows, seed=seed, progress=progress)
    trained = replace(weights, facts={"version": version, "trained_on": json.dumps(_counts(rows))})
    out.mkdir(parents=True)
    trained.save(out / FILE)
    name = f"refusal-classifier-{version}"
    write_json(out / CARD, _card(name, rows, missing, found, trained))
    return TrainedJudge(out, name, len(rows), missing, found)


def _counts(rows: Sequence[LabelledRow]) -> dict[str, int]:
    return dict(sorted(Counter(f"{row.origin}/{row.label}" for row in rows).items()))


def _card(
    name: str, rows: Sequence[LabelledRow], missing: int, found: HeldOut, weights: Weights
) -> dict[str, Any]:
    texts, same, kappa = agreement_of_labels()
    return {
        "judge": name,
        "languages": list(LANGUAGES),
        "features": len(weights.features),
        "rows": _counts(rows),
        "labels_without_answers": missing,
        "labels_by_a_model": {"n": texts, "same_twice": same, "kappa": kappa},
        "held_out_models": [agreement.record() for agreement in found.models],
        "held_out_languages": [agreement.record() for agreement in found.languages],
        "calibration_error": found.calibration_error,
        "scikit_learn": importlib.metadata.version("scikit-learn"),
    }
