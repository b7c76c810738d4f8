"""The report: one HTML page from a run folder, without the models.

1. Read the summary, the rankings, the sample answers and the manifest.
2. Judge the figures by stated rules (`sentences`), draw them (`curve`, `heatmap`).
3. Write `report.html`, one file that loads nothing.
"""

from __future__ import annotations

from pathlib import Path

from safety_neurons.report import answers, judging, words
from safety_neurons.report.cards import cards
from safety_neurons.report.curve import curve_chart
from safety_neurons.report.glossary import glossary
from safety_neurons.report.heatmap import HeatMap
from safety_neurons.report.neurontable import neuron_tables
from safety_neurons.report.provenance import Provenance
from safety_neurons.report.sentences import conclusion
from safety_neurons.report.templating import rendered
from safety_neurons.runs import (
    TABLE,
    RunFolder,
    Summary,
    read_samples,
    read_stability,
    read_summary,
)
from safety_neurons.runs.summary import SETTINGS
from safety_neurons.storage import write_text
from safety_neurons.units import read_table

REPORT = "report.html"


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
    maps = [HeatMap.of(ranking, shares) for ranking in rankings.values()]
    return rendered(
        "report.html.jinja",
        summary=summary,
        noun=noun,
        conclusion=conclusion(summary, noun),
        cards=cards(summary, noun),
        curve=curve_chart(summary, noun),
        maps=maps,
        scale=max(heat.highest for heat in maps),
        tables=neuron_tables(table, rankings),
        definitions=judging.DEFINITIONS,
        otherwise=judging.OTHERWISE,
        trust=judging.trust_in(summary),
        stability=read_stability(run),
        samples=answers.shown(read_samples(run)),
        settings=[name for name in SETTINGS if name in summary.harmless],
        provenance=Provenance.of(run, summary.judge),
        glossary=glossary(noun),
    )
