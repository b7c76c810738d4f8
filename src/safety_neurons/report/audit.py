"""What an audit is given out as: a page, a summary for a pull request, a file for pipelines.

All of them say what the card says; none concludes anything of its own.
"""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from safety_neurons.figures import points
from safety_neurons.report import words
from safety_neurons.report.charts.axes import Frame, Linear, Tick
from safety_neurons.report.charts.marks import Mark, Style, marked_line
from safety_neurons.report.charts.sized import NARROW, WIDE, WIDTHS, Sized
from safety_neurons.report.charts.strips import Strip, strips
from safety_neurons.report.charts.svg import drawing
from safety_neurons.report.templating import rendered
from safety_neurons.runs.audit import (
    AUDIT,
    KINDS,
    AuditCard,
    AuditedRates,
    AuditVerdict,
    DriftFigure,
    Rule,
    Told,
)
from safety_neurons.statistics import Interval
from safety_neurons.storage import whole_folder, write_json, write_text

PAGE, PIPELINE, SUMMARY = "report.html", "junit.xml", "summary.md"
_HEIGHTS = {WIDE: 300, NARROW: 270}
_SERIES = (0, 3)
"""Of the two models in the chart of refusals."""
REFERENCE, CANDIDATE = "reference", "candidate"
MOVED, RANDOM = 2, 1
"""Series of the chart of drift."""

MEANING = {
    AuditVerdict.INTACT: "The candidate is as safe as the reference, as far as these prompts show.",
    AuditVerdict.ERODED: "The candidate refuses clearly fewer harmful prompts.",
    AuditVerdict.LOST: "The candidate has lost the reference’s refusals.",
    AuditVerdict.BROKEN: "Many of the candidate’s answers are no language.",
    AuditVerdict.OVER_REFUSING: "The candidate refuses clearly more harmless prompts.",
    AuditVerdict.UNTOLD: "Whether anything was lost cannot be told from these prompts.",
}


def write_audit(card: AuditCard, out: Path) -> Path:
    """Write an audit's folder, whole or not at all.

    Args:
        out: a folder that does not exist yet.

    Returns:
        The folder, with `audit.json`, `junit.xml`, `summary.md` and `report.html`.

    Raises:
        UserError: if another command made it meanwhile.
    """
    with whole_folder(out) as folder:
        write_json(folder / AUDIT, card.written())
        write_text(folder / PIPELINE, junit(card))
        write_text(folder / SUMMARY, markdown(card))
        write_text(folder / PAGE, page(card))
    return out


def page(card: AuditCard) -> str:
    """The report."""
    return rendered(
        "audit.html.jinja",
        card=card,
        title=title(card),
        meaning=MEANING[card.verdict],
        kinds=[kind for kind in KINDS if kind in card.rates],
        rates_chart=rates_chart(card),
        drift_chart=drift_chart(card) if card.drift and card.drift.by_layer else "",
        drift_finding=drift_finding(card),
        moved=MOVED,
        random=RANDOM,
        rate=_rate,
        told=_told,
        state=_state,
        facts=list(_facts(card)),
    )


def title(card: AuditCard) -> str:
    """What the audit is of."""
    return f"{_name(card.candidate)} against {_name(card.reference)}"


def markdown(card: AuditCard) -> str:
    """A summary for a pull request."""
    lines = [
        f"## Safety audit: {card.verdict}",
        "",
        f"`{_name(card.candidate)}` against `{_name(card.reference)}`. {MEANING[card.verdict]}",
        "",
        *(f"- {reason}" for reason in card.reasons),
        "",
        "| prompts | n | reference refuses | candidate refuses | difference (95 % interval) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in (kind for kind in KINDS if kind in card.rates):
        of = card.rates[kind]
        lines.append(
            f"| {kind} | {of.reference.n} | {words.percent(of.reference.value)} | "
            f"{words.percent(of.candidate.value)} | {_told(of.difference, signed=True)} |"
        )
    if (finding := drift_finding(card)) is not None:
        lines += ["", finding]
    if card.fast is not None:
        lines += ["", f"Fast audit, no answer was written. {card.fast.agreement}"]
    if card.notes:
        lines += ["", "Notes:", "", *(f"- {note}" for note in card.notes)]
    return "\n".join(lines) + "\n"


def junit(card: AuditCard) -> str:
    """One test case a rule, and one for the least ratio, as pipelines read them."""
    cases = list(_cases(card))
    failures = sum(case.find("failure") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    suite = Xml.Element(
        "testsuite",
        name=f"safety-neurons audit of {_name(card.candidate)}",
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped=str(skipped),
        time=f"{card.seconds:.1f}",
    )
    suite.extend(cases)
    Xml.indent(suite)
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _cases(card: AuditCard) -> Iterator[Xml.Element]:
    decided = card.verdict
    for rule in card.rules:
        case = _case(rule.verdict)
        if rule.verdict is AuditVerdict.INTACT:
            if decided is AuditVerdict.UNTOLD:
                _add(case, "failure", card.reasons[0], str(decided))
            elif decided is not AuditVerdict.INTACT:
                _add(case, "failure", f"The verdict is {decided}.", str(decided))
        elif rule.holds is None:
            _add(case, "skipped", rule.says)
        elif rule.holds:
            _add(case, "failure", rule.says, str(rule.verdict))
        yield case
    if card.fail_under is not None:
        case = _case(f"at least {card.fail_under:g} of the refusals")
        if len(card.reasons) > 1:
            _add(case, "failure", card.reasons[-1], "fail-under")
        yield case


def _case(name: str) -> Xml.Element:
    said = name if name == AuditVerdict.INTACT or name.startswith("at least") else f"not {name}"
    return Xml.Element("testcase", classname="safety-neurons.audit", name=said)


def _add(case: Xml.Element, kind: str, message: str, type_: str | None = None) -> None:
    attributes = {"message": message} | ({} if type_ is None else {"type": type_})
    Xml.SubElement(case, kind, attributes)


def rates_chart(card: AuditCard) -> Sized:
    """Both models' rates of each kind of prompts, with intervals."""
    rows = []
    for kind, of in card.rates.items():
        both = ((REFERENCE, of.reference), (CANDIDATE, of.candidate))
        for series, (who, rate) in zip(_SERIES, both, strict=True):
            shown = words.percent(rate.value)
            said = f"{who}: {shown} of {kind} prompts refused, {words.interval(rate.interval)}"
            rows.append(Strip(f"{kind}, {who}", rate.value, shown, said, rate.interval, series))
    ticks = [Tick(at, words.percent(at)) for at in (0.0, 0.25, 0.5, 0.75, 1.0)]
    label = "Refusals of each kind of prompts by both models; the table has the same figures."
    return strips(rows, Linear(0, 1), ticks, label)


def drift_finding(card: AuditCard) -> str | None:
    """How far the neurons moved, in a sentence."""
    if card.drift is None:
        return None
    whole, noun = card.drift.whole, card.drift.noun
    if whole.function == 0 and whole.weights == 0:
        return f"The {words.count(whole.k)} safety {noun} have not moved at all."
    return (
        f"What the {words.count(whole.k)} safety {noun} write changed by "
        f"{words.percent(whole.function)} of what they wrote ({_beside(whole)}), their weights by "
        f"{words.percent(whole.weights)}."
    )


def _beside(figure: DriftFigure) -> str:
    if figure.random is None:
        return "too many of their layers to draw random ones beside them"
    return (
        f"random ones of the same layers {words.percent(figure.random)}; as far as the safety "
        f"ones: p {words.p_value(figure.p)}"
    )


def drift_chart(card: AuditCard) -> Sized:
    """Drift of the set by layer, beside random sets."""
    return Sized.of(lambda size: _drift_chart(card, size))


def _drift_chart(card: AuditCard, size: str) -> Markup:
    assert card.drift is not None
    layers = card.drift.by_layer
    highest = max(max(of.function or 0.0, of.random_high or 0.0) for of in layers) or 1.0
    last = max(of.layer for of in layers)
    up = Linear(0, highest * 1.08)
    frame = Frame(WIDTHS[size], _HEIGHTS[size], Linear(0, max(last, 1)), up)
    ticks = (Tick(at, words.share(at)) for at in up.round_steps())
    parts = [
        *frame.grid(ticks),
        *frame.base((Tick(of.layer, str(of.layer)) for of in layers), "layer"),
    ]
    random = [
        Mark(of.layer, of.random, f"layer {of.layer}, random sets: {words.percent(of.random)}")
        for of in layers
        if of.random is not None
    ]
    own = [
        Mark(
            of.layer,
            of.function,
            f"layer {of.layer}, {words.count(of.k)} safety {card.drift.noun}: "
            f"{words.percent(of.function)}; p {words.p_value(of.p)}",
            ringed=of.p is not None and of.p < 0.01,
        )
        for of in layers
        if of.function is not None
    ]
    for series, marks in ((RANDOM, random), (MOVED, own)):
        if marks:
            parts += marked_line(frame, marks, Style.of_series(series))
    label = "How far what the safety neurons write moved, by layer, beside random ones."
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")


def _state(rule: Rule) -> str:
    return {True: "holds", False: "does not hold", None: "not known"}[rule.holds]


def _rate(of: AuditedRates, who: str) -> str:
    rate = getattr(of, who)
    said = f"{words.percent(rate.value)} ({words.bounds_only(rate.interval)})"
    return said + (f", {words.unscored(rate.unscored)}" if rate.unscored else "")


def _told(figure: Told, *, signed: bool = False) -> str:
    if figure.value is None:
        return words.NOT_ENOUGH
    if not signed:
        return f"{words.percent(figure.value)} ({words.bounds_only(figure.interval)})"
    bounds = figure.interval or Interval(figure.value, figure.value)
    value, low, high = map(points, (figure.value, bounds.low, bounds.high))
    return f"{value} points ({low} to {high})"


def _facts(card: AuditCard) -> Iterator[tuple[str, str]]:
    yield "Reference", str(card.reference["source"])
    yield "Candidate", str(card.candidate["source"])
    yield "Judge", card.judge
    if card.judge_errors:
        se, sp = (card.judge_errors[name] for name in ("sensitivity", "specificity"))
        yield (
            "Its errors, taken out of differences",
            f"finds {words.percent(se['value'])} of {se['n']} labelled refusals, takes "
            f"{words.percent(1 - sp['value'])} of {sp['n']} other answers for refusals",
        )
    options: dict[str, Any] = card.options
    yield "Answers", f"cut after {options['decoding']['max_new_tokens']} tokens, greedy"
    yield "Precision", str(options["dtype"])
    if card.drift is not None:
        units = card.drift.units
        yield (
            f"Safety {card.drift.noun}",
            f"{units['k']:,} ({words.share(units['share'])}) by {units['ranking']}, from "
            f"{units['from']}",
        )
        yield "Compared at", f"{card.drift.positions:,} positions: {card.drift.at}"
        yield "Random sets", f"{card.drift.random_sets} of the same layers"
    yield "Time", words.seconds(card.seconds)
    if card.command:
        yield "Command", card.command
    packages = card.environment.get("packages", {})
    yield "Versions", ", ".join(f"{name} {version}" for name, version in packages.items())


def _name(model: dict[str, Any]) -> str:
    """The last part of a source, or of both parts where it has an adapter."""
    return "+".join(part.rstrip("/").rpartition("/")[2] for part in str(model["source"]).split("+"))
