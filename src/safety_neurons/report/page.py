"""The report: one HTML page from a run folder, without the models.

1. Read the summary, the rankings, the sample answers and the manifest.
2. Judge the figures by stated rules (`sentences`), draw them (`curve`, `heatmap`).
3. Write `report.html`, one file that loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safety_neurons.judges import Verdict
from safety_neurons.report import answers, judging, refusals, words
from safety_neurons.report.cards import cards
from safety_neurons.report.curve import curve_chart
from safety_neurons.report.dose import dose_chart
from safety_neurons.report.glossary import glossary
from safety_neurons.report.heatmap import HeatMap
from safety_neurons.report.neurontable import neuron_tables
from safety_neurons.report.provenance import Provenance
from safety_neurons.report.sentences import conclusion
from safety_neurons.report.templating import rendered
from safety_neurons.runs import (
    TABLE,
    RunFolder,
    SampleRow,
    Summary,
    read_samples,
    read_stability,
    read_summary,
)
from safety_neurons.runs.summary import SETTINGS
from safety_neurons.storage import write_text
from safety_neurons.units import read_table

REPORT = "report.html"


@dataclass(frozen=True)
class Part:
    """One part of the page: its template, its id and what the navigation calls it."""

    name: str
    title: str


def parts_of(summary: Summary, noun: str, *, stability: bool) -> Iterator[Part]:
    """The parts that a run has figures for, in the order of the page.

    First what was found and how specific it is, then examples, then what is in the set, then how
    sure it is and how it was made.

    Yields:
        Parts whose templates stand beside this module, by name.
    """
    yield Part("refusals", "Who refused")
    yield Part("curve", "Curve")
    yield Part("harmless", "Harmless prompts")
    yield Part("figures", "Key figures")
    yield Part("answers", "Answers")
    if any(row.causal_effect is not None for row in summary.by_category):
        yield Part("categories", "Categories")
    yield Part("layers", "Layers")
    yield Part("neurons", noun.capitalize())
    if summary.dose:
        yield Part("dose", "Dose")
    if summary.comparisons or summary.needed or summary.lengths:
        yield Part("certainty", "How sure")
    if stability:
        yield Part("stability", "Stability")
    if summary.coherence:
        yield Part("coherence", "Language")
    yield Part("judging", "How refusals were judged")
    yield Part("method", "How it was run")
    yield Part("terms", "Terms")


def render_report(run: RunFolder) -> Path:
    """Write the run's page.

    Returns:
        Where the page is.

    Raises:
        UserError: if the run has no complete `find` and `validate`, or is damaged.
    """
    summary = read_summary(run)
    with run.stage("report", {}, results=[REPORT]) as stage:
        write_text(stage.file(REPORT), _html(run, summary))
    return run.file(REPORT)


def _html(run: RunFolder, summary: Summary) -> str:
    table = run.result("find", TABLE)
    rankings = read_table(table)
    noun = words.noun_of(next(iter(rankings.values())).space.kinds)
    shares = sorted({point.share for point in summary.curve})
    samples = read_samples(run)
    harmful = [row for row in samples if row.kind == "harmful"]
    maps = [HeatMap.of(ranking, shares) for ranking in rankings.values()]
    card = read_stability(run)
    return rendered(
        "report.html.jinja",
        summary=summary,
        noun=noun,
        conclusion=conclusion(summary, noun),
        cards=cards(summary, noun),
        refusals=refusals,
        harmful=harmful,
        unscored=_unscored(harmful),
        agreements={name: refusals.Agreement.of(harmful, name) for name in ("patched", "random")},
        openings=refusals.openings(harmful),
        curve=curve_chart(summary, noun),
        maps=maps,
        dose=dose_chart(summary) if summary.dose else "",
        tables=neuron_tables(table, rankings),
        definitions=judging.DEFINITIONS,
        otherwise=judging.OTHERWISE,
        trust=judging.trust_in(summary),
        stability=card,
        parts_shown=list(parts_of(summary, noun, stability=card is not None)),
        samples=answers.shown(samples),
        settings=[name for name in SETTINGS if name in summary.harmless],
        provenance=Provenance.of(run, summary.judge),
        glossary=glossary(noun),
    )


def _unscored(rows: Sequence[SampleRow]) -> str:
    """How many answers of which setting have no verdict; nothing where all have one."""
    verdicts = [(name, answer.verdict) for row in rows for name, answer in row.answers.items()]
    counts = {name: n for name in SETTINGS if (n := verdicts.count((name, Verdict.UNSCORED.value)))}
    return ", ".join(f"{name}: {words.plural(n, 'answer')}" for name, n in counts.items())
