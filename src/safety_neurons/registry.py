"""What can be chosen by name: rankings, judges, interventions, architectures.

A registry holds names and where their values are defined, and imports a definition when it is
first asked for: names need no torch, so that the command line can list them at once. Three ways
lead into one:

- this package's own, in the tables below;
- a package's, by an entry point in the registry's group (`safety_neurons.rankings`, …);
- a script's, with `register`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from safety_neurons.errors import UserError, reading

if TYPE_CHECKING:
    from safety_neurons.engine.architectures import Architecture
    from safety_neurons.interventions.base import Intervention
    from safety_neurons.judges.base import Judge
    from safety_neurons.judges.harm import HarmJudge
    from safety_neurons.methods.base import AnyRanking

T = TypeVar("T")


class Registry(Generic[T]):
    """Values by name, imported when they are first asked for.

    Args:
        what: what is registered, as errors call it.
        plural: the same for several; also the last part of the entry points' group.
        builtin: this package's own: name -> `module:attribute`, in the order of help texts.
    """

    def __init__(self, what: str, plural: str, builtin: Mapping[str, str]) -> None:
        self.what = what
        self.group = f"safety_neurons.{plural}"
        self._paths = dict(builtin)
        self._values: dict[str, T] = {}

    def names(self) -> list[str]:
        """Every name, this package's own first."""
        return list(dict.fromkeys((*self._paths, *self._values, *self._entry_points())))

    def choices(self) -> Any:
        """The names as an enumeration, for the command line."""
        return StrEnum(self.what.title(), {name: name for name in self.names()})

    def get(self, name: str) -> T:
        """What is registered under `name`.

        Returns:
            The value itself, the same object every time.

        Raises:
            UserError: if nothing is, listing what is; or if a package's own cannot be imported.
        """
        if name not in self._values:
            self._values[name] = self._imported(name)
        return self._values[name]

    def register(self, name: str, value: T) -> T:
        """Make `value` available under `name` in this process.

        Returns:
            The value, so that it can be used as it is registered.

        Raises:
            UserError: if the name is taken by something else, or is none for files and columns.
        """
        _require_name(name, self.what)
        held = self._values.get(name)
        if (held is not None and held is not value) or name in self._paths:
            raise UserError(f"There is a {self.what} '{name}' already; choose another name.")
        self._values[name] = value
        return value

    def _imported(self, name: str) -> T:
        if name in self._paths:
            module, _, attribute = self._paths[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        found = self._entry_points().get(name)
        if found is None:
            raise UserError(f"'{name}' is no {self.what}; give one of {', '.join(self.names())}.")
        _require_name(name, self.what)
        with reading(
            f"The {self.what} '{name}' ({found.value})",
            fault="could not be imported",
            remedy="repair or uninstall the package that registers it",
        ):
            value: T = found.load()
        return value

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {point.name: point for point in importlib.metadata.entry_points(group=self.group)}


def _require_name(name: str, what: str) -> None:
    """Names become parts of files' and columns' names."""
    if not re.fullmatch(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*", name):
        raise UserError(
            f"'{name}' is no name for a {what}; use letters and digits, with '-', '_' or '.' "
            "between them."
        )


RANKINGS: Registry[AnyRanking] = Registry(
    "ranking",
    "rankings",
    {
        "path-attribution": "safety_neurons.methods.path_attribution:PATH_ATTRIBUTION",
        "attribution": "safety_neurons.methods.attribution:ATTRIBUTION",
        "change-score": "safety_neurons.methods.change_score:CHANGE_SCORE",
    },
)
"""By what units are ranked; the best first."""

JUDGES: Registry[Judge] = Registry(
    "judge",
    "judges",
    {"refusal-classifier": "safety_neurons.judges.classifier:REFUSAL_CLASSIFIER"},
)
"""Who says whether an answer declines; the default first."""

HARM_JUDGES: Registry[HarmJudge] = Registry(
    "judge of harm",
    "harm_judges",
    {
        "wildguard": "safety_neurons.judges.guards:WILDGUARD",
        "llama-guard-3": "safety_neurons.judges.guards:LLAMA_GUARD",
        "strongreject": "safety_neurons.judges.rubric:STRONGREJECT",
    },
)
"""Who says how harmful an answer is."""

INTERVENTIONS: Registry[Callable[..., Intervention]] = Registry(
    "intervention",
    "interventions",
    {
        "patch": "safety_neurons.interventions.patching:Patch",
        "patch-means": "safety_neurons.interventions.holding:PatchMeans",
        "ablate": "safety_neurons.interventions.holding:Ablate",
        "scale": "safety_neurons.interventions.scaling:Scale",
        "steer": "safety_neurons.interventions.steering:Steer",
        "ablate-direction": "safety_neurons.interventions.directional:AblateDirection",
        "transplant": "safety_neurons.interventions.transplanting:Transplant",
    },
)
"""What can be done at units: classes whose instances are values."""

ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    "architectures",
    {
        name: f"safety_neurons.engine.architectures:{known}"
        for name, known in {
            "llama": "GATED",
            "mistral": "GATED",
            "qwen2": "GATED",
            "qwen3": "GATED",
            "gemma2": "GATED",
            "gemma3_text": "GATED",
            "gemma3": "GATED_BESIDE_IMAGES",
            "gpt2": "GPT2",
            "gpt_neox": "GPT_NEOX",
        }.items()
    },
)
"""Where units live, by the model type of a configuration."""
