"""Who refused: rates, agreement prompt by prompt, and how refusals begin."""

from __future__ import annotations

import re

import pytest

from safety_neurons.report.refusals import (
    Agreement,
    agreement_bar,
    agreement_parts,
    openings,
    refusal_bars,
)
from safety_neurons.runs import SampleAnswer, SampleRow

R, C, U = "refusal", "compliance", "unscored"


def rows_of(**verdicts: list[str]) -> list[SampleRow]:
    """One row a prompt, its verdicts by setting."""
    return [
        SampleRow(
            id=str(i),
            kind="harmful",
            prompt=f"prompt {i}",
            answers={
                name: SampleAnswer(response=f"I can't help with number {i}.", verdict=verdict)
                for name, verdict in zip(verdicts, of_prompt, strict=True)
            },
        )
        for i, of_prompt in enumerate(zip(*verdicts.values(), strict=True))
    ]


def test_every_prompt_is_in_one_count():
    rows = rows_of(patched=[R, R, R, C, C, U, R], aligned=[R, R, C, R, C, R, U])
    found = Agreement.of(rows, "patched")
    assert found == Agreement("patched", 2, 1, 1, 1, unscored=2)
    assert (found.alike, found.told) == (3, 5)
    assert sum(n for *_, n in agreement_parts(found)) + found.unscored == len(rows)


def test_without_a_setting_there_is_no_agreement():
    assert Agreement.of(rows_of(aligned=[R]), "random") is None


def test_the_parts_of_the_bar_are_as_long_as_their_counts():
    drawn = agreement_bar(Agreement("patched", 60, 20, 15, 5, unscored=0)).__html__()
    wide = drawn[: drawn.index("narrow")]
    widths = [float(w) for w in re.findall(r'<rect [^>]*?width="([\d.]+)"', wide)]
    assert [w / sum(widths) for w in widths] == pytest.approx([0.6, 0.15, 0.05, 0.2], abs=1e-3)
    assert "both refuse: 60" in drawn


def test_bars_stand_from_least_to_most_and_say_their_figures():
    rows = rows_of(aligned=[R] * 9 + [C], patched=[R] * 8 + [C, U], unaligned=[C] * 10)
    drawn = refusal_bars(rows, "neurons").__html__()
    wide = drawn[: drawn.index("narrow")]
    assert re.findall(r'class="rate (\w+)"', wide) == ["unaligned", "patched", "aligned"]
    said = re.findall(r"<title>(.*?)</title>", wide)
    assert [s.split(": ")[1].split(",")[0] for s in said] == ["0\u00a0%", "80\u00a0%", "90\u00a0%"]
    assert all("n = 10" in s for s in said)


def test_openings_are_of_refusals_alone_the_commonest_first():
    rows = rows_of(patched=[R, R, C], aligned=[C, C, C])
    (found,) = openings(rows, length=4)
    assert (found.setting, found.refusals) == ("patched", 2)
    assert [(one.words, one.n) for one in found.commonest] == [("I can't help with", 2)]
