"""How often a judge errs, measured on labelled answers, and carried through to what it counts.

A refusal is what is looked for: sensitivity is the share of labelled refusals that the judge calls
refusals, specificity the share of other answers that it does not. An unscored answer is no refusal
to the judge. Both are measured for all rows and for each `condition` (such as `unaligned`,
`aligned`, `patched`): a judge that errs more often on one model's answers than on another's moves
an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safety_neurons.errors import UserError, reading
from safety_neurons.judges.base import Verdict
from safety_neurons.statistics import Interval, Share, rogan_gladen, share
from safety_neurons.storage import write_text


class Bounded(BaseModel):
    """A share with its interval and the rows that it was measured on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float | None = Field(ge=0, le=1)
    ci_low: float | None = Field(ge=0, le=1)
    ci_high: float | None = Field(ge=0, le=1)
    n: int = Field(ge=0)

    @classmethod
    def of(cls, measured: Share) -> Self:
        """As a record."""
        low, high = (
            (measured.interval.low, measured.interval.high) if measured.interval else (None, None)
        )
        return cls(value=measured.value, ci_low=low, ci_high=high, n=measured.n)

    @property
    def share(self) -> Share:
        """As a figure to count with."""
        if self.ci_low is None or self.ci_high is None:
            return Share(self.value, self.n, None)
        return Share(self.value, self.n, Interval(self.ci_low, self.ci_high))


class Errors(BaseModel):
    """Sensitivity and specificity on some answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(ge=0)
    sensitivity: Bounded
    specificity: Bounded

    @classmethod
    def between(cls, labels: Sequence[Verdict], verdicts: Sequence[Verdict]) -> Self:
        """What the verdicts on labelled answers show."""
        yes = [verdict is Verdict.REFUSAL for verdict in verdicts]
        refusals = [
            said for said, label in zip(yes, labels, strict=True) if label is Verdict.REFUSAL
        ]
        others = [
            said for said, label in zip(yes, labels, strict=True) if label is not Verdict.REFUSAL
        ]
        return cls(
            n=len(yes),
            sensitivity=Bounded.of(share(sum(refusals), len(refusals))),
            specificity=Bounded.of(share(len(others) - sum(others), len(others))),
        )

    def corrected(self, found: Share) -> Share:
        """A rate of refusals as a judge without errors would count it."""
        return rogan_gladen(found, self.sensitivity.share, self.specificity.share)


class Calibration(Errors):
    """The errors of one judge.

    Args:
        judge: its name and version; those of another judge say nothing of it.
        conditions: the same for each condition, where the labelled rows name some.
    """

    judge: str
    conditions: dict[str, Errors] = {}

    @classmethod
    def measured(
        cls,
        judge: str,
        labels: Sequence[Verdict],
        verdicts: Sequence[Verdict],
        conditions: Sequence[str | None],
    ) -> Self:
        """What the verdicts on labelled answers show, in all and by condition."""
        of: dict[str, tuple[list[Verdict], list[Verdict]]] = {}
        for label, verdict, condition in zip(labels, verdicts, conditions, strict=True):
            if condition is not None:
                pair = of.setdefault(condition, ([], []))
                pair[0].append(label)
                pair[1].append(verdict)
        whole = Errors.between(labels, verdicts)
        return cls(
            judge=judge,
            n=whole.n,
            sensitivity=whole.sensitivity,
            specificity=whole.specificity,
            conditions={name: Errors.between(*pair) for name, pair in sorted(of.items())},
        )

    def on(self, condition: str) -> Errors:
        """The errors on answers of a condition; those on all rows where it was not labelled."""
        return self.conditions.get(condition, self)

    def differs(self, conditions: Mapping[str, object]) -> bool:
        """Whether any of these conditions has figures of its own."""
        return any(name in self.conditions for name in conditions)

    def write(self, file: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_text(file, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, file: str | Path, judge: str) -> Self:
        """The calibration of `judge` in a file.

        Returns:
            What `calibrate-judge` wrote.

        Raises:
            UserError: if the file is none, or of another judge.
        """
        with reading(file, fault="is no calibration", remedy="make one with calibrate-judge"):
            text = Path(file).read_text(encoding="utf-8")
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(
                f"'{file}' is no calibration ({error.errors()[0]['msg']}); make one with "
                "calibrate-judge."
            ) from error
        if found.judge != judge:
            raise UserError(
                f"'{file}' is the calibration of '{found.judge}', but the judge here is '{judge}'; "
                "calibrate that one."
            )
        return found
