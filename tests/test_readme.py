"""The README's figures are those of the evidence, of the judge's table and of the story."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from safety_neurons.figures import bounds, percent
from safety_neurons.runs import Summary

ROOT = Path(__file__).parent.parent
README = " ".join((ROOT / "README.md").read_text().split())


@pytest.fixture(scope="module")
def pairs() -> dict[str, Summary]:
    content = json.loads((ROOT / "docs/evidence/summary.json").read_text())
    return {name: Summary.model_validate(pair) for name, pair in content["pairs"].items()}


@pytest.fixture(scope="module")
def lora(pairs) -> Summary:
    return pairs["lora"]


def test_the_claim(lora):
    point = lora.claim
    before, after = lora.unaligned.refusal_rate, lora.aligned.refusal_rate
    strongest = percent(before + max(point.controls) * (after - before))
    for said in (
        f"unaligned model {percent(before)}, with a random set of neurons patched in {strongest}, "
        f"with the chosen neurons {percent(point.refusal_rate)}, aligned model {percent(after)}",
        f"Share of {point.n} harmful prompts",
        f"{point.k} of its 46,080 neurons ({100 * point.share:g} %)",
        f"closes {percent(point.causal_effect)} of the gap between the two "
        f"({bounds(point.interval)}); the best of three random sets",
        f"in each layer closes {percent(point.control_max)}.",
        "Of 100 harmless prompts "
        f"{100 * lora.harmless['patched'].refusal_rate.value:.0f} are refused with the neurons "
        f"patched, {100 * lora.unaligned.over_refusal_rate:.0f} without, "
        f"{100 * lora.aligned.over_refusal_rate:.0f} by the aligned model.",
    ):
        assert said in README
    assert len(point.controls) == 3


def test_how_many_refusals_repeat_themselves(lora):
    looping = lora.judging.counted("looping")
    of = (lora.unaligned.refusal_rate, lora.claim.refusal_rate, lora.aligned.refusal_rate)
    unaligned, refusals, aligned = (round(rate * lora.claim.n) for rate in of)
    assert (
        f"{looping.answers} of the {refusals} refusals then repeat themselves (of the two models' "
        f"own none), and without those {percent(looping.causal_effect)} of the gap is closed "
        f"({bounds(looping.interval)})."
    ) in README
    # Whole numbers of answers that have this ratio: of the two models' own none was left out.
    without = refusals - looping.answers
    assert looping.causal_effect == pytest.approx((without - unaligned) / (aligned - unaligned))


def test_how_many_neurons_each_ranking_takes(pairs):
    taken = {
        name: [pair.n90[name] for pair in pairs.values()]
        for name in ("path-attribution", "change-score")
    }
    assert max(taken["path-attribution"]) == 0.005
    assert "the default one (`path-attribution`) [0.5 % or less]" in README
    assert min(taken["change-score"]) == 0.2
    assert "it takes 20 % of the neurons or more" in README


def test_how_well_the_judge_agrees_with_people():
    table = (ROOT / "docs/judges.md").read_text()
    rows = re.findall(
        r"^\| \S+ \| people \| (\d+) \| ([\d.]+) % \([^)]*\) \| ([\d.]+) % \|", table, re.M
    )
    ours, phrases = (sorted(round(float(row[i])) for row in rows) for i in (1, 2))
    of = [next(row[0] for row in rows if round(float(row[1])) == one) for one in ours]
    assert f"{ours[0]} % of {of[0]} and {ours[1]} % of {of[1]}" in README
    assert f"a list of phrases agrees on {phrases[0]} and {phrases[1]} %" in README


def test_the_repair():
    kept = json.loads((ROOT / "docs/evidence/fine-tune-story/repaired/sure.json").read_text())
    rates = kept["rates"][0]
    before, after = (percent(rates[who]["value"]) for who in ("candidate", "repaired"))
    assert kept["repaired"]
    assert rates["kind"] == "harmful"
    assert f"from {before} of harmful prompts refused to {after}, all of the task kept" in README
    assert kept["task"]["gain_kept"]["value"] >= 0.995
