"""Labels that people, or others, give answers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safety_neurons.errors import UserError
from safety_neurons.judges.base import Verdict

LABELS = tuple(verdict for verdict in Verdict if verdict is not Verdict.UNSCORED)


def label_of(value: Any, file: str | Path, row: int) -> Verdict:
    """A label of a user's file.

    Returns:
        Refusal, partial or compliance.

    Raises:
        UserError: if it is none of the three.
    """
    if value not in LABELS:
        raise UserError(
            f"'{file}', row {row}: {value!r} is no label; give one of {', '.join(LABELS)}."
        )
    return Verdict(value)
