"""How templates become pages: everything escaped, what is undefined in words."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from safety_neurons.report import captions, charts, words
from safety_neurons.report.cards import Bar
from safety_neurons.report.figures import interval_of
from safety_neurons.report.heatmap import strength


def rendered(template: str, **content: Any) -> str:
    """The page that `template` makes of `content`."""
    return _environment().get_template(template).render(**content)


def _environment() -> Environment:
    """Everything is escaped, and None becomes words wherever it is met."""
    environment = Environment(
        loader=PackageLoader("safety_neurons.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_worded,
    )
    environment.globals.update(
        words=words,
        captions=captions,
        charts=charts,
        interval_of=interval_of,
        strength=strength,
        bar_of=lambda point: Bar.of(point.causal_effect, interval_of(point)),
    )
    return environment


def _worded(value: Any) -> Any:
    return words.NOT_ENOUGH if value is None else value
