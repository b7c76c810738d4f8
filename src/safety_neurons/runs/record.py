"""The base of everything that a run keeps as JSON: one typed definition, written and read."""

from __future__ import annotations

import json
from typing import Any, Self, TypedDict

from pydantic import BaseModel, ConfigDict

from safety_neurons.statistics import Effect, Interval


class Record(BaseModel):
    """One kind of JSON object of a run.

    A field that a later version adds needs a default, so that earlier runs stay readable; what
    a later version wrote and this one does not know is passed over. A number is finite.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
    )

    @classmethod
    def parsed(cls, text: str) -> Self:
        """The record that a JSON text holds.

        Returns:
            A record whose fields are of their types.

        Raises:
            ValueError: if the text is no JSON (NaN and Infinity are none), or not this record.
        """
        return cls.model_validate(json.loads(text, parse_constant=_no_number))

    def written(self) -> dict[str, Any]:
        """As it stands in its file.

        Returns:
            What JSON can hold, names as in the file.
        """
        return self.model_dump(mode="json", by_alias=True)


class BoundedRecord(Record):
    """A figure with its 95 % interval, None where there is none."""

    ci_low: float | None
    ci_high: float | None

    @property
    def interval(self) -> Interval | None:
        """Both bounds, or None."""
        if self.ci_low is None or self.ci_high is None:
            return None
        return Interval(self.ci_low, self.ci_high)


class EffectFields(TypedDict):
    """What records of effects have in common."""

    causal_effect: float | None
    ci_low: float | None
    ci_high: float | None


def effect_fields(effect: Effect) -> EffectFields:
    """A measured effect, as records of effects hold it."""
    return {"causal_effect": effect.value, "ci_low": effect.ci_low, "ci_high": effect.ci_high}


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
