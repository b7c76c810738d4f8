"""The report's charts and figures as files of their own: SVG for a paper, CSV for a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from safety_neurons.report.curve import standalone_curve
from safety_neurons.report.dose import wide_dose
from safety_neurons.report.heatmap import HeatMap
from safety_neurons.report.refusals import wide_bars
from safety_neurons.report.specificity import specificity, wide_specificity
from safety_neurons.report.stability import wide_effects
from safety_neurons.report.standalone import standalone
from safety_neurons.runs import SampleRow, StabilityCard, Summary

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
    noun: str,
) -> dict[str, str]:
    """What is written beside the page.

    Args:
        harmful: the answers to harmful test prompts.
        card: of stability, None without.

    Returns:
        Contents by file name; no chart of what was not measured.
    """
    files = {
        "figure-refusals.svg": standalone(wide_bars(harmful, noun)),
        "figure-curve.svg": standalone_curve(summary, noun),
        **{f"figure-layers-{heat.ranking}.svg": standalone(heat.wide()) for heat in maps},
        "figures.csv": _csv(summary),
    }
    if specificity(summary):
        files["figure-harmless.svg"] = standalone(wide_specificity(summary, noun))
    if card is not None:
        files["figure-stability.svg"] = standalone(wide_effects(card))
    if summary.dose:
        files["figure-dose.svg"] = standalone(wide_dose(summary))
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
