"""Fitting the classifier of refusals to labelled rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_neurons.errors import UserError
from safety_neurons.judges import Verdict
from safety_neurons.judges.classifier import Weights
from safety_neurons.judges.features import CUE, Reading, features_of
from safety_neurons.studies.judge_training.rows import LabelledRow, Origin

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix, dia_array

COMMON_FROM = 25
"""A word in the answers to so many prompts is never masked."""
KNOWN_FROM = 3
FEATURE_FROM = 3
"""A feature of fewer answers gets no weight."""

SCALE = 3.0
"""Every answer's features have this length together: how far single ones may count."""
INVERSE_PENALTY = 0.5
CUE_SCALE = 3.0
"""How far what the rules see may count beside one n-gram."""

ORIGIN_WEIGHTS = {
    Origin.PEOPLE: 2.0,
    Origin.MODEL: 1.0,
    Origin.WRITTEN: 1.0,
    Origin.COMPOSED: 0.3,
}
ENGLISH_COMPOSED_WEIGHT = 0.1
"""Where there are real rows, composed ones count less."""
PEOPLES_PARTIAL_WEIGHT = 0.3
"""Beside that: people call the same sentence a refusal of one model and partial of another."""


@dataclass(frozen=True)
class Examples:
    """Rows as features, for many fits on parts of them.

    Args:
        matrix: one row an answer, one column a feature, 0 or 1.
    """

    rows: list[LabelledRow]
    matrix: csr_matrix
    features: list[str]
    words: frozenset[str]
    common: frozenset[str]

    @classmethod
    def of(cls, rows: Sequence[LabelledRow]) -> Examples:
        """Read all rows once.

        Words and features are chosen on all of them, labels unseen.

        Returns:
            The rows with their features, in order.
        """
        prompts_with: dict[str, set[str]] = defaultdict(set)
        readings = [Reading.of(row.prompt, row.response) for row in rows]
        for row, read in zip(rows, readings, strict=True):
            for token in set(read.answer):
                prompts_with[token].add(row.prompt)
        words = frozenset(t for t, prompts in prompts_with.items() if len(prompts) >= KNOWN_FROM)
        common = frozenset(t for t, prompts in prompts_with.items() if len(prompts) >= COMMON_FROM)
        found = [features_of(read, common, words) for read in readings]
        counts = Counter(name for names in found for name in names)
        features = sorted(name for name, count in counts.items() if count >= FEATURE_FROM)
        return cls(list(rows), _matrix(found, features), features, words, common)

    @property
    def _stretch(self) -> dia_array:
        from scipy.sparse import diags_array

        return diags_array([CUE_SCALE if f.startswith(CUE) else 1.0 for f in self.features])

    def fit(self, at: Sequence[int] | None = None) -> Weights:
        """Train on the rows at these places, by default on all."""
        chosen = list(range(len(self.rows)) if at is None else at)
        labels = np.array([self.rows[i].label for i in chosen])
        weights = np.array(_weights([self.rows[i] for i in chosen]))
        scaled = _scaled(self.matrix[chosen]) @ self._stretch
        declining = labels != Verdict.COMPLIANCE
        questions = [
            _regression(scaled, declining, weights),
            _regression(
                scaled[declining], labels[declining] == Verdict.PARTIAL, weights[declining]
            ),
        ]
        return Weights(
            self.features,
            # At run time a feature counts 1 over the root of how many there are.
            SCALE * np.stack([question.coef_[0] for question in questions]) @ self._stretch,
            np.array([question.intercept_[0] for question in questions]),
            self.words,
            self.common,
        )

    def probabilities(
        self, weights: Weights, at: Sequence[int], rows: Sequence[LabelledRow] | None = None
    ) -> np.ndarray:
        """Refusal, partial and compliance of the rows at these places.

        Args:
            rows: others than those that were read first.

        Returns:
            One row a row of `at`, `row verdict`.
        """
        if rows is None:
            matrix = self.matrix[np.asarray(at)]
        else:
            found = [
                features_of(Reading.of(rows[i].prompt, rows[i].response), self.common, self.words)
                for i in at
            ]
            matrix = _matrix(found, self.features)
        scores = _scaled(matrix) @ (weights.weights / SCALE).T + weights.bias
        declines, helps = (1 / (1 + np.exp(-scores))).T
        return np.stack([declines * (1 - helps), declines * helps, 1 - declines], axis=1)


def _matrix(found: Sequence[set[str]], features: Sequence[str]) -> csr_matrix:
    from scipy.sparse import csr_matrix

    index = {name: i for i, name in enumerate(features)}
    columns = [sorted(index[name] for name in names if name in index) for names in found]
    starts = np.cumsum([0, *map(len, columns)])
    places = np.concatenate([np.array(each, dtype=np.int64) for each in columns])
    shape = (len(found), len(features))
    return csr_matrix((np.ones(len(places)), places, starts), shape=shape)


def _scaled(matrix: csr_matrix) -> csr_matrix:
    from scipy.sparse import diags_array

    counts = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1.0)
    return (diags_array(SCALE / np.sqrt(counts)) @ matrix).tocsr()


def _regression(matrix: csr_matrix, yes: np.ndarray, weights: np.ndarray) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError("Training a judge needs scikit-learn; pip install scikit-learn.") from error

    if len(np.unique(yes)) < 2:
        raise UserError("Training a judge needs rows of every label; give more answers.")
    return LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(
        matrix, yes, sample_weight=weights
    )


def _weights(rows: Sequence[LabelledRow]) -> list[float]:
    """How much each row counts.

    How often a source declines says nothing of an answer, so both halves of it count the same.

    Returns:
        A weight a row, in order.
    """
    counts = Counter((row.source, row.label is Verdict.COMPLIANCE) for row in rows)
    sources = Counter(row.source for row in rows)
    return [
        _weight(row)
        * sources[row.source]
        / (2 * counts[row.source, row.label is Verdict.COMPLIANCE])
        for row in rows
    ]


def _weight(row: LabelledRow) -> float:
    if row.origin is Origin.COMPOSED and row.language == "en":
        return ENGLISH_COMPOSED_WEIGHT
    partial = row.origin is Origin.PEOPLE and row.label is Verdict.PARTIAL
    return ORIGIN_WEIGHTS[row.origin] * (PEOPLES_PARTIAL_WEIGHT if partial else 1.0)
