"""Runs side by side: one HTML page from several run folders, without the models.

1. Read each run's figures and rankings.
2. What was done differently, before any figure: a difference in figures may come from there.
3. The conclusions, the key figures, the curves; what two runs' sets of units have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from safety_neurons.errors import UserError, reading
from safety_neurons.report import words
from safety_neurons.report.cards import Line, cards
from safety_neurons.report.curve import curve_chart, overlaid_curves
from safety_neurons.report.provenance import NONE, Provenance, flat
from safety_neurons.report.sentences import conclusion
from safety_neurons.report.templating import rendered
from safety_neurons.report.words import NOT_RECORDED
from safety_neurons.runs import DAMAGED, TABLE, CurvePoint, RunFolder, Summary, read_summary
from safety_neurons.storage import write_text
from safety_neurons.units import Ranking, read_table
from safety_neurons.units.overlap import iou, iou_by_chance, rank_correlation

COMPARISON = "comparison.html"


@dataclass(frozen=True)
class ComparedRun:
    """One run of the comparison.

    Args:
        title: both models' names.
        options: how it came about, by dotted names.
    """

    name: str
    title: str
    summary: Summary
    rankings: dict[str, Ranking]
    options: dict[str, str]

    @classmethod
    def of(cls, run: RunFolder, name: str) -> ComparedRun:
        """What the folder holds."""
        summary = read_summary(run)
        return cls(
            name,
            Provenance.of(run, summary.judge).title,
            summary,
            read_table(run.result("find", TABLE)),
            options_of(run, summary.judge),
        )


@dataclass(frozen=True)
class Row:
    """One figure, a cell for each run: the value and how sure it is."""

    label: str
    cells: tuple[tuple[str, str], ...]

    @property
    def is_hash(self) -> bool:
        """Whether it is of contents that no one reads: digests of files."""
        return any(part in self.label for part in ("sha256", ".files.", "find: models."))


@dataclass(frozen=True)
class Overlap:
    """What the first units of two runs' rankings have in common.

    Args:
        at: share, intersection over union, and what chance would give.
    """

    runs: tuple[str, str]
    ranking: str
    correlation: float
    at: tuple[tuple[float, float | None, float | None], ...]


def render_comparison(runs: Sequence[RunFolder], out: Path) -> Path:
    """Write the page that compares `runs` to the file `out`.

    Returns:
        The file.

    Raises:
        UserError: if a run has no complete `find` and `validate`, or is given twice.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UserError("A run is given twice; give two or more different run folders.")
    compared = [
        ComparedRun.of(run, name)
        for run, name in zip(runs, _names([run.path for run in runs]), strict=True)
    ]
    noun = words.noun_of(
        kind
        for run in compared
        for ranking in run.rankings.values()
        for kind in ranking.space.kinds
    )
    differences = list(_differences(compared))
    page = rendered(
        "comparison.html.jinja",
        runs=compared,
        noun=noun,
        conclusions={run.name: conclusion(run.summary, noun) for run in compared},
        curves={run.name: curve_chart(run.summary, noun) for run in compared},
        overlaid=overlaid_curves({run.name: run.summary for run in compared}, noun),
        differences=[row for row in differences if not row.is_hash],
        hashes=[row for row in differences if row.is_hash],
        key_figures=list(_key_figures(compared, noun)),
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


def options_of(run: RunFolder, judge: str) -> dict[str, str]:
    """Everything that decided a run's figures.

    Returns:
        Texts by dotted names.

    Raises:
        UserError: if the manifest is damaged.
    """
    with reading(run.manifest_file, remedy=DAMAGED):  # options have no types
        return dict(_options(run, judge))


def _options(run: RunFolder, judge: str) -> Iterator[tuple[str, str]]:
    found = run.manifest.found
    # Runs from before format 3 did not record them; they have the default.
    sites = {"sites": found.sites} if found else {}
    yield from flat({**run.config("find"), **sites}, "find: ")
    yield from flat(run.config("validate"), "validate: ")
    manifest = run.manifest.written()
    for key in ("models", "chat", "packages"):
        yield from flat(manifest[key] or {}, f"{key}.", leave_out={"location", "example"})
    yield "judge", judge
    yield from flat({"commit": manifest["commit"]})


def _differences(runs: Sequence[ComparedRun]) -> Iterator[Row]:
    """Options that are not the same in all runs."""
    for name in dict.fromkeys(name for run in runs for name in run.options):
        values = [run.options.get(name) for run in runs]
        # Where one version records that there is none, an earlier one recorded nothing.
        if len({None if value == NONE else value for value in values}) > 1:
            yield Row(name, tuple((NOT_RECORDED if v is None else v, "") for v in values))


def _key_figures(runs: Sequence[ComparedRun], noun: str) -> Iterator[Row]:
    """The cards' lines, one row each; a line that a run lacks says so."""
    lines: dict[str, dict[str, Line]] = {}
    for run in runs:
        for card in cards(run.summary, noun):
            for line in card.lines:
                label, chosen, share = line.label.partition("chosen set, ")
                value = f"{line.value} at {share}" if chosen else line.value
                row = f"{card.title}: {'chosen set' if chosen else label}"
                lines.setdefault(row, {})[run.name] = Line(line.label, value, line.notes)
    for row, by_run in lines.items():
        yield Row(row, tuple(_cell(by_run.get(run.name)) for run in runs))
    for setting in ("unaligned", "patched"):
        rows = [run.summary.harmless.get(setting) for run in runs]
        values = [words.number(row.perplexity if row else None) for row in rows]
        yield Row(f"Perplexity of harmless answers: {setting}", tuple((v, "") for v in values))


def _cell(line: Line | None) -> tuple[str, str]:
    return (words.NOT_ENOUGH, "") if line is None else (line.value, " · ".join(line.notes))


def _effects(runs: Sequence[ComparedRun]) -> Iterator[Row]:
    """Test effects of every ranking and share that any of the runs has."""
    points = {(p.ranking, p.share, run.name): p for run in runs for p in run.summary.on("test")}
    places = {(ranking, share) for ranking, share, _ in points}
    order = list(dict.fromkeys(r for run in runs for r in run.summary.rankings))
    for ranking, share in sorted(places, key=lambda place: (order.index(place[0]), place[1])):
        found = [points.get((ranking, share, run.name)) for run in runs]
        yield Row(f"{ranking}, {words.share(share)}", tuple(_effect(p) for p in found))


def _effect(point: CurvePoint | None) -> tuple[str, str]:
    if point is None:
        return "not tested", ""
    notes = [words.bounds_only(point.interval), f"n{words.NBSP}={words.NBSP}{point.n}"]
    if point.controls:
        notes.append(f"random at most {words.percent(point.control_max)}")
    return words.percent(point.causal_effect), " · ".join(notes)


def _overlaps(runs: Sequence[ComparedRun]) -> Iterator[Overlap]:
    """Of every two runs of equally shaped models, for each ranking that both have."""
    for one, other in combinations(runs, 2):
        for name in [name for name in one.rankings if name in other.rankings]:
            first, second = one.rankings[name], other.rankings[name]
            if first.space != second.space:
                continue
            shares = {
                p.share for run in (one, other) for p in run.summary.on("test") if p.share < 1
            }
            total = first.space.total
            at = [
                (share, iou(a, b), iou_by_chance(len(a), len(b), total))
                for share in sorted(shares)
                for a, b in [(first.top(share), second.top(share))]
            ]
            names = (one.name, other.name)
            yield Overlap(names, name, rank_correlation(first, second), tuple(at))
