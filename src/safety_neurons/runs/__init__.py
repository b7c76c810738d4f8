"""Run folders: what commands write, as typed and versioned records."""

from safety_neurons.runs.explanation import ExplanationCard
from safety_neurons.runs.folder import DAMAGED, TABLE, RunFolder, Stage
from safety_neurons.runs.fragility import FragilityCard
from safety_neurons.runs.manifest import Manifest
from safety_neurons.runs.models import reload_pair, require_same_models
from safety_neurons.runs.neuronpages import NeuronPages
from safety_neurons.runs.reading import (
    read_explanation,
    read_fragility,
    read_pages,
    read_samples,
    read_stability,
    read_summary,
)
from safety_neurons.runs.samples import (
    COMPLETIONS,
    HARMLESS_COMPLETIONS,
    SAMPLES,
    CompletionRow,
    SampleAnswer,
    SampleRow,
)
from safety_neurons.runs.stability import StabilityCard
from safety_neurons.runs.summary import SUMMARY, CurvePoint, Summary

__all__ = [
    "COMPLETIONS",
    "DAMAGED",
    "HARMLESS_COMPLETIONS",
    "SAMPLES",
    "SUMMARY",
    "TABLE",
    "CompletionRow",
    "CurvePoint",
    "ExplanationCard",
    "FragilityCard",
    "Manifest",
    "NeuronPages",
    "RunFolder",
    "SampleAnswer",
    "SampleRow",
    "StabilityCard",
    "Stage",
    "Summary",
    "read_explanation",
    "read_fragility",
    "read_pages",
    "read_samples",
    "read_stability",
    "read_summary",
    "reload_pair",
    "require_same_models",
]
