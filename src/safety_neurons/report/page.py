"""The report: one HTML page made from a run folder, without the models.

1. Read the summary, the rankings, the sample answers and the manifest.
2. Judge the figures by stated rules (`sentences`), draw them (`charts`, `heatmap`).
3. Write `report.html`, one file that loads nothing.
"""

from __future__ import annotations

from pathlib import Path

from safety_neurons.artifacts import RunFolder, write_text
from safety_neurons.finding.run import TABLE
from safety_neurons.neurons import read_table
from safety_neurons.report import answers, charts
from safety_neurons.report.cards import cards
from safety_neurons.report.figures import SETTINGS, Figures
from safety_neurons.report.glossary import GLOSSARY
from safety_neurons.report.heatmap import HeatMap
from safety_neurons.report.neurontable import neuron_tables
from safety_neurons.report.provenance import Provenance
from safety_neurons.report.sentences import verdict
from safety_neurons.report.templating import rendered
from safety_neurons.validation.run import SAMPLES

REPORT = "report.html"


def render_report(run: RunFolder) -> Path:
    """Write the run's page.

    Returns:
        Where the page is.

    Raises:
        UserError: if the run has no complete `find` and `validate`.
    """
    figures = Figures.of(run)
    with run.stage("report", {}, results=[REPORT]) as stage:
        write_text(stage.file(REPORT), _html(run, figures))
    return run.file(REPORT)


def _html(run: RunFolder, figures: Figures) -> str:
    table = run.result("find", TABLE)
    rankings = read_table(table)
    shares = sorted({point.share for point in figures.points})
    maps = [HeatMap.of(ranking, shares) for ranking in rankings.values()]
    return rendered(
        "report.html.jinja",
        figures=figures,
        verdict=verdict(figures),
        cards=cards(figures),
        curve=charts.curve_chart(figures),
        maps=maps,
        scale=max(heat.highest for heat in maps),
        tables=neuron_tables(table, rankings),
        samples=answers.read_samples(run.result("validate", SAMPLES)),
        settings=[name for name in SETTINGS if name in figures.harmless],
        provenance=Provenance.of_run(run, figures.judge),
        glossary=GLOSSARY,
    )
