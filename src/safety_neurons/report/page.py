"""The report: one HTML page from a run folder, without the models.

1. Read the summary, the rankings, the sample answers and the manifest.
2. Judge the figures by stated rules (`sentences`), draw them (`curve`, `heatmap`).
3. Write `report.html`, one file that loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safety_neurons.report import (
    answers,
    explanation,
    explanationcharts,
    fragility,
    judging,
    pipeline,
    refusals,
    specificity,
    stability,
    words,
)
from safety_neurons.report.cards import cards
from safety_neurons.report.curve import curve_chart
from safety_neurons.report.dose import dose_chart, dose_points
from safety_neurons.report.figures import figure_files
from safety_neurons.report.glossary import glossary
from safety_neurons.report.heatmap import HeatMap
from safety_neurons.report.neuronpage import neuron_views
from safety_neurons.report.neurontable import neuron_tables
from safety_neurons.report.provenance import Provenance
from safety_neurons.report.sentences import conclusion
from safety_neurons.report.templating import rendered
from safety_neurons.runs import (
    TABLE,
    ExplanationCard,
    FragilityCard,
    NeuronPages,
    RunFolder,
    SampleRow,
    StabilityCard,
    Summary,
    read_explanation,
    read_fragility,
    read_pages,
    read_samples,
    read_stability,
    read_summary,
)
from safety_neurons.runs.summary import SETTINGS
from safety_neurons.storage import write_text
from safety_neurons.units import Ranking, read_table

REPORT = "report.html"


@dataclass(frozen=True)
class Part:
    """One part of the page: its template, its id and what the navigation calls it."""

    name: str
    title: str


def parts_of(
    summary: Summary,
    noun: str,
    *,
    with_card: bool,
    with_explanation: bool = False,
    with_fragility: bool = False,
) -> Iterator[Part]:
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
    if with_explanation:
        yield Part("explanation", "What they do")
    if summary.dose:
        yield Part("dose", "Dose")
    if summary.comparisons or summary.needed or summary.lengths:
        yield Part("certainty", "How sure")
    if with_card:
        yield Part("stability", "Stability")
    if with_fragility:
        yield Part("fragility", "How few")
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
    rankings = read_table(run.result("find", TABLE))
    noun = words.noun_of(next(iter(rankings.values())).space.kinds)
    samples = read_samples(run)
    harmful = [row for row in samples if row.kind == "harmful"]
    shares = sorted({point.share for point in summary.curve})
    maps = [HeatMap.of(ranking, shares) for ranking in rankings.values()]
    card, fragile, explained = read_stability(run), read_fragility(run), read_explanation(run)
    files = figure_files(summary, harmful, maps, card, fragile, explained, noun)
    content = _Content(
        run,
        summary,
        rankings,
        noun,
        samples,
        harmful,
        maps,
        card,
        fragile,
        explained,
        read_pages(run),
        tuple(files),
    )
    files[REPORT] = _html(content)
    with run.stage("report", {}, results=list(files)) as stage:
        for name, text in files.items():
            write_text(stage.file(name), text)
    return run.file(REPORT)


@dataclass(frozen=True)
class _Content:
    """What the page is made of.

    Args:
        files: names of the figures beside the page.
    """

    run: RunFolder
    summary: Summary
    rankings: dict[str, Ranking]
    noun: str
    samples: Sequence[SampleRow]
    harmful: Sequence[SampleRow]
    maps: Sequence[HeatMap]
    card: StabilityCard | None
    fragility: FragilityCard | None
    explanation: ExplanationCard | None
    pages: NeuronPages | None
    files: tuple[str, ...]


def _html(of: _Content) -> str:
    summary, noun, card = of.summary, of.noun, of.card
    return rendered(
        "report.html.jinja",
        summary=summary,
        noun=noun,
        conclusion=conclusion(summary, noun, card),
        cards=cards(summary, noun),
        refusals=refusals,
        harmful=of.harmful,
        unscored=refusals.unscored(of.harmful),
        agreements={
            name: refusals.Agreement.of(of.harmful, name) for name in ("patched", "random")
        },
        openings=refusals.openings(of.harmful),
        curve=curve_chart(summary, noun),
        specificity=specificity,
        specific=specificity.specificity(summary),
        maps=of.maps,
        dose=dose_chart(summary) if summary.dose else "",
        dose_points=dose_points(summary),
        tables=neuron_tables(of.run.result("find", TABLE), of.rankings),
        judging=judging,
        trust=judging.trust_in(summary),
        stability=card,
        card_charts=stability,
        fragility=of.fragility,
        fragile=fragility,
        explanation=of.explanation,
        explained=explanation,
        stage_charts=explanationcharts,
        pipeline=pipeline,
        pages=of.pages,
        views=neuron_views(of.pages) if of.pages else (),
        paged={page.unit for page in of.pages.pages} if of.pages else set(),
        parts_shown=list(
            parts_of(
                summary,
                noun,
                with_card=card is not None,
                with_explanation=of.explanation is not None,
                with_fragility=of.fragility is not None,
            )
        ),
        samples=answers.shown(of.samples),
        settings=[name for name in SETTINGS if name in summary.harmless],
        provenance=Provenance.of(of.run, summary.judge),
        glossary=glossary(noun),
        files=of.files,
    )
