"""The report's charts and figures as files of their own: SVG for a paper, CSV for a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from safety_neurons.report.curve import standalone_curve
from safety_neurons.report.dose import dose_chart
from safety_neurons.report.fragility import removal_chart
from safety_neurons.report.heatmap import HeatMap
from safety_neurons.report.pipeline import pipeline_chart
from safety_neurons.report.refusals import refusal_bars
from safety_neurons.report.specificity import specificity, specificity_chart
from safety_neurons.report.stability import effects_chart
from safety_neurons.report.standalone import standalone
from safety_neurons.runs import ExplanationCard, FragilityCard, SampleRow, StabilityCard, Summary

_COLUMNS = (
    "ranking",
    "split",
    "share",
    "units",
    "prompts",
    "unscored",
    "effect",
    "ci_low",
    "ci_high",
    "refusal_rate",
    "random_mean",
    "random_max",
    "harmless_refused",
    "harmless_ci_low",
    "harmless_ci_high",
)


def figure_files(
    summary: Summary,
    harmful: Sequence[SampleRow],
    maps: Sequence[HeatMap],
    card: StabilityCard | None,
    fragility: FragilityCard | None,
    explanation: ExplanationCard | None,
    noun: str,
) -> dict[str, str]:
    """What is written beside the page.

    Args:
        harmful: the answers to harmful test prompts.
        card: of stability, None without.
        fragility, explanation: None without.

    Returns:
        Contents by file name; no chart of what was not measured.
    """
    files = {
        "figure-refusals.svg": standalone(refusal_bars(harmful, noun).wide),
        "figure-curve.svg": standalone_curve(summary, noun),
        **{f"figure-layers-{heat.ranking}.svg": standalone(heat.chart().wide) for heat in maps},
        "figures.csv": _csv(summary),
    }
    if specificity(summary):
        files["figure-harmless.svg"] = standalone(specificity_chart(summary, noun).wide)
    if card is not None:
        files["figure-stability.svg"] = standalone(effects_chart(card).wide)
    if fragility is not None:
        files["figure-fragility.svg"] = standalone(removal_chart(fragility).wide)
    if explanation is not None:
        files["figure-pipeline.svg"] = standalone(pipeline_chart(explanation).wide)
    if summary.dose:
        files["figure-dose.svg"] = standalone(dose_chart(summary).wide)
    return files


def _csv(summary: Summary) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    beside = {
        (row.point.ranking, row.point.split, row.point.share): row.harmless.refusal_rate
        for row in specificity(summary)
    }
    for point in summary.curve:
        rate = beside.get((point.ranking, point.split, point.share))
        rows.writerow(
            [
                point.ranking,
                point.split,
                point.share,
                point.k,
                point.n,
                point.unscored,
                point.causal_effect,
                point.ci_low,
                point.ci_high,
                point.refusal_rate,
                point.control_mean,
                point.control_max,
                *((rate.value, rate.ci_low, rate.ci_high) if rate else (None, None, None)),
            ]
        )
    return text.getvalue()
