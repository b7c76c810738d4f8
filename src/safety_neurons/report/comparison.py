"""Runs side by side: one HTML page made from several run folders, without the models.

1. Read each run's figures and rankings.
2. What was done differently, before any figure: a difference in figures may come from there.
3. The verdicts, the key figures, the curves; what two runs' neuron sets have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from markupsafe import Markup

from safety_neurons.artifacts import RunFolder, write_text
from safety_neurons.artifacts.folder import DAMAGED
from safety_neurons.errors import UserError, reading
from safety_neurons.finding.run import TABLE
from safety_neurons.neurons import Ranking, RankingName, read_table
from safety_neurons.neurons.overlap import iou, iou_by_chance, rank_correlation
from safety_neurons.report import charts, words
from safety_neurons.report.cards import Line, cards
from safety_neurons.report.figures import Figures, interval_of
from safety_neurons.report.provenance import Provenance, flat
from safety_neurons.report.sentences import Verdict, verdict
from safety_neurons.report.templating import rendered
from safety_neurons.validation.curve import CurvePoint

COMPARISON = "comparison.html"
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class ComparedRun:
    """One run of the comparison."""

    name: str
    title: str
    figures: Figures
    verdict: Verdict
    curve: Markup
    rankings: dict[RankingName, Ranking]
    made: dict[str, str]
    """How it was made, as pairs of a dotted name and a text."""

    @classmethod
    def of(cls, run: RunFolder, name: str) -> ComparedRun:
        figures = Figures.of(run)
        return cls(
            name,
            Provenance.of_run(run, figures.judge).title,
            figures,
            verdict(figures),
            charts.curve_chart(figures),
            read_table(run.result("find", TABLE)),
            _made(run, figures.judge),
        )


@dataclass(frozen=True)
class Row:
    """One figure, a cell for each run: the value and how sure it is."""

    label: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Overlap:
    """What the first neurons of two runs' rankings have in common."""

    runs: tuple[str, str]
    ranking: str
    correlation: float
    at: tuple[tuple[float, float | None, float | None], ...]
    """Share, intersection over union, and what chance would give."""


def render_comparison(runs: Sequence[RunFolder], out: Path) -> Path:
    """Write the page that compares `runs` to the file `out`.

    Raises:
        UserError: if a run has no complete `find` and `validate`, or is given twice.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UserError("A run is given twice; give two or more different run folders.")
    compared = [
        ComparedRun.of(run, name)
        for run, name in zip(runs, _names([run.path for run in runs]), strict=True)
    ]
    page = rendered(
        "comparison.html.jinja",
        runs=compared,
        differences=list(_differences(compared)),
        key_figures=list(_key_figures(compared)),
        effects=list(_effects(compared)),
        overlaps=list(_overlaps(compared)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return out


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of what stands before as tells them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(len(p) for p in parts)):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _made(run: RunFolder, judge: str) -> dict[str, str]:
    """How a run was made, by dotted names."""
    with reading(run.manifest_file, remedy=DAMAGED):
        return dict(_facts(run.manifest, judge))


def _facts(manifest: dict[str, Any], judge: str) -> Iterator[tuple[str, str]]:
    for stage in ("find", "validate"):
        yield from flat(manifest["stages"].get(stage, {}).get("config", {}), f"{stage}: ")
    for key in ("models", "chat", "packages"):
        yield from flat(
            {k: v for k, v in manifest.get(key, {}).items() if k != "example"},
            key + ".",
            leave_out={"location"},
        )
    yield "judge", judge
    yield "commit", str(manifest.get("commit"))


def _differences(runs: Sequence[ComparedRun]) -> Iterator[Row]:
    """Options that are not the same in all runs."""
    for name in dict.fromkeys(name for run in runs for name in run.made):
        values = [run.made.get(name, _NOT_RECORDED) for run in runs]
        if len(set(values)) > 1:
            yield Row(name, tuple((value, "") for value in values))


def _key_figures(runs: Sequence[ComparedRun]) -> Iterator[Row]:
    """The cards' lines, one row each; a line that a run lacks says so."""
    lines: dict[str, dict[str, Line]] = {}
    for run in runs:
        for card in cards(run.figures):
            for line in card.lines:
                label, chosen, share = line.label.partition("chosen set, ")
                value = f"{line.value} at {share}" if chosen else line.value
                row = f"{card.title}: {'chosen set' if chosen else label}"
                lines.setdefault(row, {})[run.name] = Line(line.label, value, line.notes)
    for row, by_run in lines.items():
        yield Row(row, tuple(_cell(by_run.get(run.name)) for run in runs))
    for setting in ("unaligned", "patched"):
        rows = [run.figures.harmless.get(setting) for run in runs]
        values = [words.number(row.perplexity if row else None) for row in rows]
        yield Row(f"Perplexity of harmless answers: {setting}", tuple((v, "") for v in values))


def _cell(line: Line | None) -> tuple[str, str]:
    return (words.NOT_ENOUGH, "") if line is None else (line.value, " · ".join(line.notes))


def _effects(runs: Sequence[ComparedRun]) -> Iterator[Row]:
    """Test effects of every ranking and share that any of the runs has."""
    points = {(p.ranking, p.share, run.name): p for run in runs for p in run.figures.on("test")}
    places = {(ranking, share) for ranking, share, _ in points}
    order = list(dict.fromkeys(r for run in runs for r in run.figures.rankings))
    for ranking, share in sorted(places, key=lambda place: (order.index(place[0]), place[1])):
        found = [points.get((ranking, share, run.name)) for run in runs]
        yield Row(f"{ranking}, {words.share(share)}", tuple(_effect(p) for p in found))


def _effect(point: CurvePoint | None) -> tuple[str, str]:
    if point is None:
        return "not tested", ""
    notes = [words.bounds_only(interval_of(point)), f"n{words.NBSP}={words.NBSP}{point.n}"]
    if point.controls:
        notes.append(f"random at most {words.percent(point.control_max)}")
    return words.percent(point.causal_effect), " · ".join(notes)


def _overlaps(runs: Sequence[ComparedRun]) -> Iterator[Overlap]:
    """Of every two runs of equally shaped models, for each ranking that both have."""
    for one, other in combinations(runs, 2):
        for name in [name for name in one.rankings if name in other.rankings]:
            first, second = one.rankings[name], other.rankings[name]
            if first.layout != second.layout:
                continue
            shares = {
                p.share for run in (one, other) for p in run.figures.on("test") if p.share < 1
            }
            total = first.layout.total
            at = [
                (share, iou(a, b), iou_by_chance(len(a), len(b), total))
                for share in sorted(shares)
                for a, b in [(first.top(share), second.top(share))]
            ]
            names = (one.name, other.name)
            yield Overlap(names, str(name), rank_correlation(first, second), tuple(at))
