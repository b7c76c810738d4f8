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
    from safety_neurons.engine import ALONE, Side
    from safety_neurons.errors import InterventionError, SafetyNeuronsError, UserError
    from safety_neurons.inference import Decoding, Setting, answer, decode
    from safety_neurons.interventions import (
        Ablate,
        AblateDirection,
        Intervention,
        Patch,
        PatchMeans,
        Scale,
        Steer,
        Transplant,
        intervene,
        load_interventions,
        save_interventions,
    )
    from safety_neurons.judges import HarmJudge, Judge, RefusalJudge, Verdict
    from safety_neurons.methods import RankingInRounds, RankingMethod
    from safety_neurons.models import LoadedModel, ModelPair
    from safety_neurons.prompts import ChatFormat, Kind, PromptSet, Split, builtin, load_prompts
    from safety_neurons.registry import (
        ARCHITECTURES,
        HARM_JUDGES,
        INTERVENTIONS,
        JUDGES,
        RANKINGS,
    )
    from safety_neurons.report import render_comparison, render_report
    from safety_neurons.report.audit import write_audit
    from safety_neurons.runs import (
        ExplanationCard,
        FragilityCard,
        NeuronPages,
        RunFolder,
        StabilityCard,
        Summary,
        reload_pair,
    )
    from safety_neurons.runs.audit import AuditCard
    from safety_neurons.runs.repair import RepairRecord
    from safety_neurons.studies.alignment import AlignRecipe, align
    from safety_neurons.studies.applying import (
        Applied,
        ApplyOptions,
        apply_scale,
        apply_scale_to,
        apply_transplant,
        undo,
    )
    from safety_neurons.studies.auditing import AuditOptions, AuditPrompts, audit
    from safety_neurons.studies.calibrating import calibrate_judge
    from safety_neurons.studies.explanation import ExplainOptions, ExplanationPrompts, explain
    from safety_neurons.studies.explanation.looking import look
    from safety_neurons.studies.finding import FindOptions, find
    from safety_neurons.studies.fragility import (
        FragilityOptions,
        FragilityPrompts,
        fragility,
        fragility_of_model,
    )
    from safety_neurons.studies.generation import generate
    from safety_neurons.studies.judge_training import train_judge
    from safety_neurons.studies.judging import judge_answers
    from safety_neurons.studies.repairing import RepairOptions, RepairPrompts, RepairTask, repair
    from safety_neurons.studies.sets import save_top_units, top_units
    from safety_neurons.studies.stability import stability
    from safety_neurons.studies.validation import TestPrompts, ValidateOptions, validate
    from safety_neurons.units import (
        Ranking,
        SiteKind,
        UnitSet,
        UnitSpace,
        UnitValues,
        load_set,
        save_set,
    )

_HOMES = {
    "engine": (
        "ALONE",
        "Side",
    ),
    "errors": (
        "InterventionError",
        "SafetyNeuronsError",
        "UserError",
    ),
    "inference": (
        "Decoding",
        "Setting",
        "answer",
        "decode",
    ),
    "interventions": (
        "Ablate",
        "AblateDirection",
        "Intervention",
        "Patch",
        "PatchMeans",
        "Scale",
        "Steer",
        "Transplant",
        "intervene",
        "load_interventions",
        "save_interventions",
    ),
    "judges": (
        "HarmJudge",
        "Judge",
        "RefusalJudge",
        "Verdict",
    ),
    "methods": ("RankingInRounds", "RankingMethod"),
    "models": (
        "LoadedModel",
        "ModelPair",
    ),
    "prompts": (
        "ChatFormat",
        "Kind",
        "PromptSet",
        "Split",
        "builtin",
        "load_prompts",
    ),
    "registry": (
        "ARCHITECTURES",
        "HARM_JUDGES",
        "INTERVENTIONS",
        "JUDGES",
        "RANKINGS",
    ),
    "report": (
        "render_comparison",
        "render_report",
    ),
    "report.audit": ("write_audit",),
    "runs": (
        "ExplanationCard",
        "FragilityCard",
        "NeuronPages",
        "RunFolder",
        "StabilityCard",
        "Summary",
        "reload_pair",
    ),
    "runs.audit": ("AuditCard",),
    "runs.repair": ("RepairRecord",),
    "studies.alignment": (
        "AlignRecipe",
        "align",
    ),
    "studies.applying": (
        "Applied",
        "ApplyOptions",
        "apply_scale",
        "apply_scale_to",
        "apply_transplant",
        "undo",
    ),
    "studies.auditing": (
        "AuditOptions",
        "AuditPrompts",
        "audit",
    ),
    "studies.calibrating": ("calibrate_judge",),
    "studies.explanation": (
        "ExplainOptions",
        "ExplanationPrompts",
        "explain",
    ),
    "studies.explanation.looking": ("look",),
    "studies.finding": (
        "FindOptions",
        "find",
    ),
    "studies.fragility": (
        "FragilityOptions",
        "FragilityPrompts",
        "fragility",
        "fragility_of_model",
    ),
    "studies.generation": ("generate",),
    "studies.judge_training": ("train_judge",),
    "studies.judging": ("judge_answers",),
    "studies.repairing": (
        "RepairOptions",
        "RepairPrompts",
        "RepairTask",
        "repair",
    ),
    "studies.sets": (
        "save_top_units",
        "top_units",
    ),
    "studies.stability": ("stability",),
    "studies.validation": (
        "TestPrompts",
        "ValidateOptions",
        "validate",
    ),
    "units": (
        "Ranking",
        "SiteKind",
        "UnitSet",
        "UnitSpace",
        "UnitValues",
        "load_set",
        "save_set",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ALONE",
    "ARCHITECTURES",
    "HARM_JUDGES",
    "INTERVENTIONS",
    "JUDGES",
    "RANKINGS",
    "Ablate",
    "AblateDirection",
    "AlignRecipe",
    "Applied",
    "ApplyOptions",
    "AuditCard",
    "AuditOptions",
    "AuditPrompts",
    "ChatFormat",
    "Decoding",
    "ExplainOptions",
    "ExplanationCard",
    "ExplanationPrompts",
    "FindOptions",
    "FragilityCard",
    "FragilityOptions",
    "FragilityPrompts",
    "HarmJudge",
    "Intervention",
    "InterventionError",
    "Judge",
    "Kind",
    "LoadedModel",
    "ModelPair",
    "NeuronPages",
    "Patch",
    "PatchMeans",
    "PromptSet",
    "Ranking",
    "RankingInRounds",
    "RankingMethod",
    "RefusalJudge",
    "RepairOptions",
    "RepairPrompts",
    "RepairRecord",
    "RepairTask",
    "RunFolder",
    "SafetyNeuronsError",
    "Scale",
    "Setting",
    "Side",
    "SiteKind",
    "Split",
    "StabilityCard",
    "Steer",
    "Summary",
    "TestPrompts",
    "Transplant",
    "UnitSet",
    "UnitSpace",
    "UnitValues",
    "UserError",
    "ValidateOptions",
    "Verdict",
    "align",
    "answer",
    "apply_scale",
    "apply_scale_to",
    "apply_transplant",
    "audit",
    "builtin",
    "calibrate_judge",
    "decode",
    "explain",
    "find",
    "fragility",
    "fragility_of_model",
    "generate",
    "intervene",
    "judge_answers",
    "load_interventions",
    "load_prompts",
    "load_set",
    "look",
    "reload_pair",
    "render_comparison",
    "render_report",
    "repair",
    "save_interventions",
    "save_set",
    "save_top_units",
    "stability",
    "top_units",
    "train_judge",
    "undo",
    "validate",
    "write_audit",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'safety_neurons' has no attribute '{name}'")
    return getattr(importlib.import_module(f"safety_neurons.{_HOME_OF[name]}"), name)
