"""How templates become pages: everything escaped, what is undefined in words."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from safety_neurons.report import captions, words
from safety_neurons.report.charts import marks


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
    environment.globals.update(words=words, captions=captions, marks=marks)
    return environment


def _worded(value: Any) -> Any:
    return words.NOT_ENOUGH if value is None else value
