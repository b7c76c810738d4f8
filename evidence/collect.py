"""Collect what the runs found: docs/evidence/summary.json, figures, and the tables of the page."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evidence.pairs import PAIRS
from evidence.stages import PRIMARY
from safety_neurons import figures
from safety_neurons.figures import percent
from safety_neurons.report.charts.sized import Sized
from safety_neurons.report.curve import standalone_curve
from safety_neurons.report.refusals import rate_bars
from safety_neurons.report.standalone import standalone
from safety_neurons.runs import RunFolder, StabilityCard, Summary, read_stability, read_summary
from safety_neurons.runs.summary import SETTINGS, CurvePoint
from safety_neurons.statistics import rate

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FOLDER = DOCS / "evidence.md", DOCS / "evidence"
_BEGIN, _END = "<!-- tables: begin -->", "<!-- tables: end -->"
_PARTS = ("confirm", "others")
SHOWN = "lora"
"""The pair that `run` is of, which the README shows."""


def collect(out: Path) -> Path:
    """Write what of the evidence stands.

    Args:
        out: the folder of the runs.

    Returns:
        The summary's file.
    """
    runs = {pair.name: run for pair in PAIRS if (run := _validated(out / pair.name))}
    if not runs:  # what others measured is not to be lost
        sys.exit(f"Nothing was collected: no validated run of a pair stands in '{out}'.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "pairs": {name: read_summary(run).written() for name, run in runs.items()},
        **{
            part: {
                name: read_summary(run).written()
                for name in runs
                if (run := _validated(out / f"{name}-{part}"))
            }
            for part in _PARTS
        },
        "stability": {
            name: card.written() for name, run in runs.items() if (card := read_stability(run))
        },
    }
    file = FOLDER / "summary.json"
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    picture(content)
    return file


def picture(content: dict[str, Any]) -> None:
    """Write the figures and the page's tables from what summary.json holds, without the runs."""
    summaries, *of_parts = (
        {name: Summary.model_validate(of) for name, of in _in_order(content[part])}
        for part in ("pairs", *_PARTS)
    )
    parts = dict(zip(_PARTS, of_parts, strict=True))
    cards = {
        name: StabilityCard.model_validate(card) for name, card in _in_order(content["stability"])
    }
    for name, summary in summaries.items():
        (FOLDER / f"{name}.svg").write_text(standalone_curve(summary, "neurons"), encoding="utf-8")
    if SHOWN in summaries:
        bars = four_bars(summaries[SHOWN])
        for name, drawn in (("four-bars.svg", bars.wide), ("four-bars-narrow.svg", bars.narrow)):
            (FOLDER / name).write_text(standalone(drawn), encoding="utf-8")
    _fill_in("\n".join(_tables(summaries, parts, cards)))


def _in_order(by_pair: dict[str, Any]) -> list[tuple[str, Any]]:
    names = [pair.name for pair in PAIRS]
    return sorted(by_pair.items(), key=lambda item: names.index(item[0]))


def four_bars(summary: Summary) -> Sized:
    """Refusals of the harmful test prompts by who answered: the picture of the README.

    The random set is the one of all drawn that carries most.
    """  # noqa: DOC201
    chosen = summary.chosen
    assert chosen is not None
    (point,) = (p for p in summary.curve_of(chosen.ranking, "test") if p.share == chosen.share)
    ends = [of.details["refusal_rate"] for of in (summary.unaligned, summary.aligned)]
    low, high = (end.value or 0.0 for end in ends)
    random = low + (point.control_max or 0.0) * (high - low)
    values = {"unaligned": low, "random": random, "patched": point.refusal_rate, "aligned": high}
    rates = {who: rate(round((value or 0.0) * point.n), point.n) for who, value in values.items()}
    return rate_bars(rates, "neurons")


def _validated(folder: Path) -> RunFolder | None:
    if not (folder / "manifest.json").is_file():
        return None
    run = RunFolder.open(folder)
    return run if run.is_whole("validate") else None


def _fill_in(tables: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{_BEGIN}.*{_END}", re.DOTALL)
    filled, times = pattern.subn(lambda _: f"{_BEGIN}\n{tables}\n{_END}", text)
    if times != 1:
        raise SystemExit(f"'{PAGE}' has not the two marks {_BEGIN} and {_END} once.")
    PAGE.write_text(filled, encoding="utf-8")


def _tables(
    summaries: dict[str, Summary],
    parts: dict[str, dict[str, Summary]],
    cards: dict[str, StabilityCard],
) -> Iterator[str]:
    what = {pair.name: pair.what for pair in PAIRS}
    yield from _at_a_glance(summaries, parts)
    for name, summary in summaries.items():
        yield from (
            f"\n### `{name}`: {what[name]}\n",
            f"![effect against share]({FOLDER.name}/{name}.svg)\n",
        )
        yield from _of_pair(summary)
    for part, title in zip(
        _PARTS, ("Prompts written afterwards", "Other people's prompts"), strict=True
    ):
        for name, summary in parts[part].items():
            yield f"\n### {title}: `{name}`\n"
            yield from _of_pair(summary)
    for name, card in cards.items():
        yield f"\n### Stability: `{name}`\n"
        yield from _of_card(card)


_GLANCE = (0.002, 0.005, 0.01)
_ASKED = {"test": "`test`", "confirm": "`confirm`", "others": "other people's"}


def _at_a_glance(
    summaries: dict[str, Summary], parts: dict[str, dict[str, Summary]]
) -> Iterator[str]:
    """One row a pair and prompt set, of the default ranking."""
    yield "\n### At a glance: `path-attribution`\n"
    yield (
        "| pair | prompts | "
        + " | ".join(figures.share(share) for share in _GLANCE)
        + f" | highest random at {figures.share(_GLANCE[1])} | N90 | necessity | "
        "harmless refused (aligned) | repetition (aligned) | chosen set, if refusals that repeat "
        "themselves do not count |"
    )
    yield "| --- |" + " --- |" * (len(_GLANCE) + 7)
    for prompts, of in (("test", summaries), *parts.items()):
        for name, summary in of.items():
            curve = {point.share: point for point in summary.curve_of(PRIMARY, "test")}
            beside = curve.get(_GLANCE[1])
            cells = [
                f"`{name}`",
                f"{_ASKED[prompts]}, {curve[1.0].n}",
                *(_effect(curve.get(share)) for share in _GLANCE),
                percent(beside.control_max if beside else None),
                f"{_share(summary.n90[PRIMARY])}{_within(summary, PRIMARY)}",
                _effect(summary.necessity),
                f"{percent(summary.harmless['patched'].refusal_rate.value)} "
                f"({percent(summary.aligned.over_refusal_rate)})",
                f"{_repetition(summary, 'patched')} ({_repetition(summary, 'aligned')})",
                _without_loops(summary),
            ]
            yield f"| {' | '.join(cells)} |"
    yield ""


def _effect(point: CurvePoint | None) -> str:
    return "–" if point is None else figures.bounded(point.causal_effect, point.interval)


def _without_loops(summary: Summary) -> str:
    """The chosen set's effect with refusals that repeat themselves counted as none."""
    found = summary.judging.counted("looping") if summary.judging else None
    if found is None:  # such refusals are none, or nothing was counted otherwise
        return "–"
    effect = figures.bounded(found.causal_effect, found.interval)
    return f"{effect}, of {figures.share(summary.chosen.share)}"


def _repetition(summary: Summary, setting: str) -> str:
    row = summary.coherence.get(setting)
    return percent(row.repetition if row else None)


def _of_pair(summary: Summary) -> Iterator[str]:
    claim = summary.chosen
    yield (
        f"Refusals: unaligned {_rates(summary, 'unaligned')}, aligned {_rates(summary, 'aligned')} "
        f"(harmful / harmless / borderline). Ceiling {percent(summary.ceiling)}. Chosen on "
        f"`select`: {claim.ranking}, {figures.share(claim.share)}. N90 on `test`: "
        + ", ".join(
            f"{name} {_share(summary.n90[name])}{_within(summary, name)}"
            for name in summary.rankings
        )
        + f". Prompts needed to tell 90 % from 80 %: {summary.needed or '–'}.\n"
    )
    shares = sorted({point.share for point in summary.on("test")})
    refused = {point.share: point.refusal_rate.value for point in summary.harmless_curve}
    yield (
        "| share | "
        + " | ".join(summary.rankings)
        + " | random sets, mean (highest) | harmless prompts refused |"
    )
    yield "| --- |" + " --- |" * (len(summary.rankings) + 2)
    for share in shares:
        cells, random = [], "–"
        for place, ranking in enumerate(summary.rankings):
            point = next(p for p in summary.curve_of(ranking, "test") if p.share == share)
            cells.append(_effect(point))
            if place == 0 and point.control_mean is not None:
                random = f"{percent(point.control_mean)} ({percent(point.control_max)})"
        yield (
            f"| {figures.share(share)} | "
            + " | ".join(cells)
            + f" | {random} | {percent(refused.get(share))} |"
        )
    yield ""
    if summary.necessity:
        yield (
            f"Necessity of the chosen set: {_effect(summary.necessity)}, random "
            f"{percent(summary.necessity.control_mean)}. "
            + "Harmless prompts refused: "
            + ", ".join(
                f"{setting} {percent(of.refusal_rate.value)} (perplexity {_number(of.perplexity)})"
                for setting in SETTINGS
                if (of := summary.harmless.get(setting))
            )
            + ".\n"
        )
    if summary.dose:
        yield (
            "Dose: "
            + ", ".join(f"strength {p.strength:g} {_effect(p)}" for p in summary.dose)
            + ".\n"
        )
    if summary.lengths:
        yield "| tokens | unaligned | aligned | patched | effect | later / no longer (patched) |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for row in summary.lengths:
            rates = " | ".join(
                percent(row.refusal_rates[s]) for s in ("unaligned", "aligned", "patched")
            )
            yield (
                f"| {row.tokens} | {rates} | {figures.bounded(row.causal_effect, row.interval)} | "
                f"{row.later['patched']} / {row.no_longer['patched']} |"
            )
        yield ""
    told = [row for row in summary.by_category if row.causal_effect is not None]
    if told:
        yield (
            "By category: "
            + ", ".join(f"{row.category} {percent(row.causal_effect)} (n {row.n})" for row in told)
            + ".\n"
        )


def _of_card(card: StabilityCard) -> Iterator[str]:
    yield f"{card.sentence}\n"
    yield "| changed | against | shared (IoU) | by chance | rank correlation |"
    yield "| --- | --- | --- | --- | --- |"
    for row in card.overlaps:
        yield (
            f"| {row.changed} | {row.against} | {_number(row.iou)} | {_chance(row.chance)} | "
            f"{_number(row.rank_correlation)} |"
        )
    yield ""
    sets = [card.own, *card.transfers, *card.random, *card.magnitude]
    yield "| set | effect here |"
    yield "| --- | --- |"
    for one in sets:
        yield f"| {one.name} | {figures.bounded(one.causal_effect, one.interval)} |"
    yield ""


def _rates(summary: Summary, side: str) -> str:
    rates = summary.unaligned if side == "unaligned" else summary.aligned
    three = (rates.refusal_rate, rates.over_refusal_rate, rates.borderline_refusal_rate)
    return " / ".join(percent(rate) for rate in three)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _chance(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return figures.share(value, "none")


def _within(summary: Summary, ranking: str) -> str:
    if (bounds := summary.n90_intervals.get(ranking)) is None:
        return ""
    return f" ({_share(bounds.low)} to {_share(bounds.high)})"
