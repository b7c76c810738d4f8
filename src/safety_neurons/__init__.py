"""Find the MLP neurons behind a language model's refusals, and prove that they are the ones.

pair = ModelPair.embedded()
run = find(pair, "runs/mine")
summary = validate(run, pair)
report = render_report(run)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safety_neurons.alignment import AlignRecipe, align
    from safety_neurons.artifacts import RunFolder
    from safety_neurons.errors import InterventionError, SafetyNeuronsError, UserError
    from safety_neurons.finding import FindOptions, find
    from safety_neurons.generation import Decoding, answer
    from safety_neurons.judges import Judge, RefusalJudge, Verdict
    from safety_neurons.models import ModelPair, Side
    from safety_neurons.neurons import NeuronSet, Ranking, RankingName
    from safety_neurons.prompts import ChatFormat, Kind, PromptSet, Split, builtin, load_prompts
    from safety_neurons.report import render_report
    from safety_neurons.validation import TestPrompts, ValidateOptions, validate

_HOMES = {
    "alignment": ("AlignRecipe", "align"),
    "artifacts": ("RunFolder",),
    "errors": ("InterventionError", "SafetyNeuronsError", "UserError"),
    "finding": ("FindOptions", "find"),
    "generation": ("Decoding", "answer"),
    "judges": ("Judge", "RefusalJudge", "Verdict"),
    "models": ("ModelPair", "Side"),
    "neurons": ("NeuronSet", "Ranking", "RankingName"),
    "prompts": ("ChatFormat", "Kind", "PromptSet", "Split", "builtin", "load_prompts"),
    "report": ("render_report",),
    "validation": ("TestPrompts", "ValidateOptions", "validate"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlignRecipe",
    "ChatFormat",
    "Decoding",
    "FindOptions",
    "InterventionError",
    "Judge",
    "Kind",
    "ModelPair",
    "NeuronSet",
    "PromptSet",
    "Ranking",
    "RankingName",
    "RefusalJudge",
    "RunFolder",
    "SafetyNeuronsError",
    "Side",
    "Split",
    "TestPrompts",
    "UserError",
    "ValidateOptions",
    "Verdict",
    "align",
    "answer",
    "builtin",
    "find",
    "load_prompts",
    "render_report",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'safety_neurons' has no attribute '{name}'")
    return getattr(importlib.import_module(f"safety_neurons.{_HOME_OF[name]}"), name)
