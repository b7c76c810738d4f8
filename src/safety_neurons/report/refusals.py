"""Who refused: the rate under each setting, and prompt by prompt, from the saved answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.judges import Verdict
from safety_neurons.report import words
from safety_neurons.report.captions import setting_name
from safety_neurons.report.charts.sized import WIDTHS, Sized
from safety_neurons.report.charts.svg import drawing, element, line, text, titled
from safety_neurons.runs import SampleRow
from safety_neurons.statistics import Rate, rate

FROM_LEAST_TO_MOST = ("unaligned", "random", "patched", "aligned")
"""Settings in the order in which a patch that works would have them refuse."""
_ROW, _BAR, _FOOT, _SIDE = 46, 16, 22, 14
_LETTER = 7.5


@dataclass(frozen=True)
class Agreement:
    """How one setting's refusals and the aligned model's fall together, in prompts.

    Args:
        unscored: prompts on which one of both has no verdict; they are in no other count.
    """

    setting: str
    both: int
    neither: int
    only_setting: int
    only_aligned: int
    unscored: int

    @classmethod
    def of(cls, rows: Sequence[SampleRow], setting: str) -> Agreement | None:
        """Over rows that have both answers; None without any."""
        seen: Counter[tuple[bool, bool] | None] = Counter(
            _refused_by_both(row, setting)
            for row in rows
            if {setting, "aligned"} <= row.answers.keys()
        )
        if not seen:
            return None
        return cls(
            setting,
            both=seen[True, True],
            neither=seen[False, False],
            only_setting=seen[True, False],
            only_aligned=seen[False, True],
            unscored=seen[None],
        )

    @property
    def alike(self) -> int:
        """Prompts on which both decided the same."""
        return self.both + self.neither

    @property
    def told(self) -> int:
        """Prompts on which both have a verdict."""
        return self.alike + self.only_setting + self.only_aligned


@dataclass(frozen=True)
class Opening:
    """How refusals begin, and how many of a setting's do."""

    words: str
    n: int


@dataclass(frozen=True)
class Openings:
    """The commonest beginnings of one setting's refusals."""

    setting: str
    refusals: int
    commonest: tuple[Opening, ...]


def openings(rows: Sequence[SampleRow], *, length: int = 4, most: int = 3) -> list[Openings]:
    """How each setting's refusals begin: what was carried may be one stock phrase.

    Args:
        length: words that an opening has.
        most: openings a setting.

    Returns:
        One row a setting that refused anything.
    """
    found = []
    for setting in FROM_LEAST_TO_MOST:
        begun = Counter(
            " ".join(answer.response.split()[:length]).strip('"“”')
            for row in rows
            if (answer := row.answers.get(setting)) and answer.verdict == Verdict.REFUSAL
        )
        if begun:
            commonest = tuple(Opening(opening, n) for opening, n in begun.most_common(most))
            found.append(Openings(setting, begun.total(), commonest))
    return found


def refusal_bars(rows: Sequence[SampleRow], noun: str) -> Sized:
    """The rate of refusals under each setting with its interval."""
    return rate_bars(_rates(rows), noun)


def rate_bars(rates: dict[str, Rate], noun: str) -> Sized:
    """The same from rates that are counted already, by setting."""
    return Sized.of(lambda size: _bars(rates, noun, size))


def agreement_bar(agreement: Agreement) -> Sized:
    """One bar of all prompts, parted by who refused."""
    return Sized.of(lambda size: _parted(agreement, size))


def agreement_parts(agreement: Agreement) -> list[tuple[str, str, int]]:
    """The parts of the bar: class of the style sheet, what it is called, prompts."""
    who = agreement.setting
    return [
        ("both", "both refuse", agreement.both),
        ("only-setting", f"only the {who} model refuses", agreement.only_setting),
        ("only-aligned", "only the aligned model refuses", agreement.only_aligned),
        ("neither", "neither refuses", agreement.neither),
    ]


def unscored(rows: Sequence[SampleRow]) -> str:
    """How many answers of which setting have no verdict; nothing where all have one."""
    counts = {setting: of.unscored for setting, of in _rates(rows).items() if of.unscored}
    return ", ".join(f"{setting}: {words.plural(n, 'answer')}" for setting, n in counts.items())


def _rates(rows: Sequence[SampleRow]) -> dict[str, Rate]:
    verdicts = {
        setting: [row.answers[setting].verdict for row in rows if setting in row.answers]
        for setting in FROM_LEAST_TO_MOST
    }
    return {
        setting: rate(of.count(Verdict.REFUSAL), len(of), of.count(Verdict.UNSCORED))
        for setting, of in verdicts.items()
        if of
    }


def _refused_by_both(row: SampleRow, setting: str) -> tuple[bool, bool] | None:
    verdicts = [row.answers[name].verdict for name in (setting, "aligned")]
    if Verdict.UNSCORED in verdicts:
        return None
    one, other = (verdict == Verdict.REFUSAL for verdict in verdicts)
    return one, other


def _bars(rates: dict[str, Rate], noun: str, size: str) -> Markup:
    width = WIDTHS[size]
    height = _ROW * len(rates) + _FOOT
    parts = list(_scale(width, height))
    for place, (setting, of) in enumerate(rates.items()):
        parts.append(_bar(place, setting, of, noun, width))
    label = "Refusals of the harmful test prompts, by who answered."
    return drawing(width, height, label, *parts, class_=f"chart {size}")


def _x(value: float, width: int) -> float:
    return _SIDE + value * (width - 2 * _SIDE)


def _scale(width: int, height: int) -> Iterator[Markup]:
    bottom = height - _FOOT
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _x(at, width)
        yield line(x, 4, x, bottom, "grid")
        anchor = {0.0: "start", 1.0: "end"}.get(at, "middle")
        shift = {0.0: -_SIDE, 1.0: _SIDE}.get(at, 0)
        yield text(x + shift, height - 6, words.percent(at), "tick", anchor)


def _bar(place: int, setting: str, of: Rate, noun: str, width: int) -> Markup:
    top = _ROW * place + 22
    value = of.value or 0.0
    name = setting_name(setting, noun)
    said = f"{name}: {words.percent(of.value)}, {words.interval(of.interval)}, n = {of.n}"
    parts = [
        text(_SIDE, top - 6, name, "bar-name"),
        text(width - _SIDE, top - 6, words.percent(of.value), "bar-value", "end"),
        element(
            "rect",
            x=_SIDE,
            y=top,
            width=_x(value, width) - _SIDE,
            height=_BAR,
            class_=f"rate {setting}",
        ),
    ]
    if of.interval:
        low, high = (_x(bound, width) for bound in (of.interval.low, of.interval.high))
        middle = top + _BAR / 2
        parts.append(line(low, middle, high, middle, "span"))
        parts += [line(x, middle - 4, x, middle + 4, "span") for x in (low, high)]
    return titled(said, *parts)


def _parted(agreement: Agreement, size: str) -> Markup:
    width, x = WIDTHS[size], float(_SIDE)
    parts = []
    for class_, called, n in agreement_parts(agreement):
        if not n:
            continue
        long = n / agreement.told * (width - 2 * _SIDE)
        inside = [element("rect", x=x, y=4, width=long, height=34, class_=f"part {class_}")]
        if long > _LETTER * len(str(n)) + 6:
            inside.append(text(x + long / 2, 26, str(n), f"part-label {class_}", "middle"))
        parts.append(titled(f"{called}: {words.plural(n, 'prompt')}", *inside))
        x += long
    label = f"Test prompts by whether the {agreement.setting} and the aligned model refuse them."
    return drawing(width, 42, label, *parts, class_=f"chart {size}")
