"""Judge: a verdict on each answer of a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from safety_neurons import defaults
from safety_neurons.errors import UserError, reading
from safety_neurons.judges import (
    HarmJudge,
    Judge,
    Opinion,
    Verdict,
    harm_of,
    judges_of,
    opinions_on,
    unfinished,
)
from safety_neurons.statistics import cohens_kappa, mean_or_none
from safety_neurons.storage import read_rows, require_columns, require_place, write_jsonl

VERDICT = "verdict"
"""The column that the first judge's verdicts stand in."""
JUDGE = "judge"
PROBABILITIES = ("p_refusal", "p_partial", "p_compliance")
OTHERS = "other_judges"
"""The column with what further judges say, by their names."""
HARM = "harm"
"""The column with how harmful judges of harm find the answer, by their names."""
_ADDED = (VERDICT, *PROBABILITIES, JUDGE, OTHERS, HARM)


@dataclass(frozen=True)
class Disagreement:
    """Two judges on the same answers.

    Args:
        first, second: their names.
        answers: with another verdict by one than by the other.
        kappa: Cohen's.
    """

    first: str
    second: str
    answers: int
    kappa: float


@dataclass(frozen=True)
class Judgement:
    """What judges said of a file's answers.

    Args:
        rows: the file's, each with its verdict.
        judge: name and version of the first judge.
        unfinished: answers that ended inside their reasoning; they are unscored.
        disagreements: of every two judges.
        harm: of each judge of harm, the mean over the answers that it could tell, and how many it
            could not.
    """

    rows: list[dict[str, Any]]
    judge: str
    unfinished: int
    disagreements: tuple[Disagreement, ...] = ()
    harm: dict[str, tuple[float | None, int]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many answers got each verdict of the first judge, the most frequent first."""
        return dict(Counter(Verdict(row[VERDICT]) for row in self.rows).most_common())


def judge_answers(
    answers: str | Path,
    out: str | Path,
    *,
    judge: Judge | HarmJudge | str | Sequence[Judge | HarmJudge | str] = defaults.JUDGE,
    prompt_column: str = "prompt",
    response_column: str = "response",
) -> Judgement:
    """Judge the answers of a file and write its rows, with a verdict each, to `out` as JSONL.

    A row gets `verdict` and `judge`, and from a judge that says how sure it is `p_refusal`,
    `p_partial` and `p_compliance` (null where the answer is unscored). With several judges those
    are the first one's, and `other_judges` has the same of each further one, by its name. What
    judges of harm say stands in `harm`, by their names: 0 to 1, null where they cannot tell.

    Args:
        answers: a JSONL, CSV or Parquet file, or `hub:owner/name`.
        judge: one of its own, the name of a registered one, a folder that `train-judge` made, or
            several of these.

    Returns:
        The rows and what was counted.

    Raises:
        UserError: if the file cannot be judged as it is, saying why.
    """
    out = Path(out)
    require_place(out)
    judges = judges_of(judge)
    rows = read_rows(str(answers))
    if not rows:
        raise UserError(f"'{answers}' holds no rows to judge.")
    named = ((prompt_column, "--prompt-column"), (response_column, "--response-column"))
    require_columns(rows, str(answers), named)
    with reading(answers, fault="holds what JSON cannot", remedy="leave out or rewrite the column"):
        json.dumps(rows, allow_nan=False)
    if out.exists() and Path(answers).exists() and out.samefile(answers):
        raise UserError(f"'{out}' is what is to be judged; name another file for the result.")
    for column in _ADDED:
        if any(column in row for row in rows):
            raise UserError(
                f"'{answers}' has a column '{column}' already, which would be lost; rename or "
                "remove it."
            )
    responses = [row[response_column] or "" for row in rows]
    prompts = [str(row[prompt_column] or "") for row in rows]
    given = [opinions_on(judge, prompts, responses) for judge in judges.refusal]
    harm = {judge.name: harm_of(judge, prompts, responses) for judge in judges.harm}
    judged = [
        {**row, **_columns(judges.refusal, opinions), **_harm(harm, i)}
        for i, (row, opinions) in enumerate(zip(rows, zip(*given, strict=True), strict=True))
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, judged)
    verdicts = {
        judge.name: [opinion.verdict for opinion in opinions]
        for judge, opinions in zip(judges.refusal, given, strict=True)
    }
    disagreements = tuple(
        Disagreement(a, b, _differing(of_a, of_b), cohens_kappa(of_a, of_b))
        for (a, of_a), (b, of_b) in combinations(verdicts.items(), 2)
    )
    return Judgement(
        judged,
        judges.first.name,
        unfinished(responses),
        disagreements,
        {name: (_mean(figures), figures.count(None)) for name, figures in harm.items()},
    )


def _columns(judges: Sequence[Judge], opinions: Sequence[Opinion]) -> dict[str, Any]:
    first, *others = [_said(opinion) for opinion in opinions]
    columns = {**first, JUDGE: judges[0].name}
    if others:
        columns[OTHERS] = {judge.name: said for judge, said in zip(judges[1:], others, strict=True)}
    return columns


def _harm(harm: dict[str, list[float | None]], row: int) -> dict[str, Any]:
    return {HARM: {name: figures[row] for name, figures in harm.items()}} if harm else {}


def _mean(figures: Sequence[float | None]) -> float | None:
    return mean_or_none([figure for figure in figures if figure is not None])


def _said(opinion: Opinion) -> dict[str, Any]:
    probabilities = opinion.probabilities or (None, None, None)
    shown = [None if p is None else round(p, 4) for p in probabilities]
    return {VERDICT: str(opinion.verdict), **dict(zip(PROBABILITIES, shown, strict=True))}


def _differing(first: Sequence[Verdict], second: Sequence[Verdict]) -> int:
    return sum(a is not b for a, b in zip(first, second, strict=True))
