"""Errors of judges, and figures corrected for them."""

import json

import numpy as np
import pytest

from safety_neurons.errors import UserError
from safety_neurons.judges import Verdict
from safety_neurons.judges.calibration import Calibration
from safety_neurons.statistics import Share, rogan_gladen, share
from tests.commands import invoke, refused

R, P, C, U = Verdict.REFUSAL, Verdict.PARTIAL, Verdict.COMPLIANCE, Verdict.UNSCORED


def test_sensitivity_and_specificity_count_refusals():
    labels = [R, R, R, R, P, C, C, C]
    verdicts = [R, R, P, U, R, C, P, U]
    found = Calibration.measured("j", labels, verdicts, [None] * 8)
    assert found.sensitivity.value == 0.5  # two of four refusals
    assert found.specificity.value == 0.75  # one of four others is called a refusal
    assert found.n == 8
    assert found.conditions == {}


def test_conditions_have_figures_of_their_own():
    found = Calibration.measured("j", [R, R, C, C], [R, C, C, C], ["a", "b", "a", "b"])
    assert found.on("a").sensitivity.value == 1
    assert found.on("b").sensitivity.value == 0
    assert found.on("other") is found
    assert found.differs({"a": 1})
    assert not found.differs({"x": 1})


def test_a_corrected_rate_is_rogan_and_gladens():
    se, sp = Share(0.9, 100, None), Share(0.8, 100, None)
    assert rogan_gladen(share(55, 100), se, sp).value == pytest.approx((0.55 - 0.2) / 0.7)
    assert rogan_gladen(share(10, 100), se, sp).value == 0
    assert rogan_gladen(share(100, 100), se, sp).value == 1
    assert rogan_gladen(share(50, 100), Share(0.5, 9, None), Share(0.5, 9, None)).value is None
    perfect = Share(1.0, 10_000, None)
    assert rogan_gladen(share(30, 100), perfect, perfect).value == pytest.approx(0.3)


def test_the_interval_covers_what_a_simulation_draws():
    """An independent way: draw calibrations and answers, correct, and count."""
    rng = np.random.default_rng(0)
    truth, se, sp, n = 0.4, 0.9, 0.85, 120
    covered = []
    for _ in range(400):
        yes, no = share(rng.binomial(60, se), 60), share(rng.binomial(60, sp), 60)
        found = share(rng.binomial(n, truth * se + (1 - truth) * (1 - sp)), n)
        interval = rogan_gladen(found, yes, no).interval
        covered.append(interval.low <= truth <= interval.high)
    assert 0.92 < np.mean(covered) <= 1


def test_the_interval_is_wider_than_without_errors():
    found = share(40, 100)
    corrected = rogan_gladen(found, share(54, 60), share(51, 60))
    width = corrected.interval.high - corrected.interval.low
    assert width > found.interval.high - found.interval.low
    assert corrected.interval.low <= corrected.value <= corrected.interval.high


@pytest.fixture
def labelled(tmp_path):
    file = tmp_path / "labelled.jsonl"
    rows = [
        ("I can't help with that.", "refusal"),
        ("Sure! Here are the steps: 1. Mix.", "compliance"),
    ]
    file.write_text(
        "".join(
            json.dumps({"prompt": "Do it.", "response": r, "label": label, "condition": c}) + "\n"
            for r, label in rows
            for c in ("aligned", "unaligned")
            for _ in range(5)
        )
    )
    return file


def test_calibrate_judge_writes_what_its_contract_says(labelled, tmp_path):
    out = tmp_path / "calibration.json"
    result = invoke("calibrate-judge", labelled, "--out", out)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert written["judge"].startswith("refusal-classifier-")
    assert written["n"] == 20
    for name in ("sensitivity", "specificity"):
        assert written[name]["value"] == 1
        assert 0 < written[name]["ci_low"] < 1
        assert written[name]["ci_high"] == 1
    assert set(written["conditions"]) == {"aligned", "unaligned"}
    assert written["conditions"]["aligned"]["n"] == 10
    found = Calibration.read(out, written["judge"])
    assert found.on("aligned").sensitivity.value == 1


def test_a_calibration_of_another_judge_is_refused(labelled, tmp_path):
    out = tmp_path / "calibration.json"
    assert invoke("calibrate-judge", labelled, "--out", out).exit_code == 0
    with pytest.raises(UserError, match="is the calibration of 'refusal-classifier"):
        Calibration.read(out, "another-1")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"judge": "j"}', '{"judge": "j", "n": -1}'])
def test_what_is_no_calibration_is_told(text, tmp_path):
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(UserError, match="no calibration"):
        Calibration.read(file, "j")


@pytest.mark.parametrize("label", ['"maybe"', '"unscored"', "null", "1"])
def test_a_label_outside_the_three_is_refused(label, tmp_path):
    file = tmp_path / "labelled.jsonl"
    file.write_text(f'{{"prompt": "Q?", "response": "No.", "label": {label}}}\n')
    out = tmp_path / "calibration.json"
    refused(invoke("calibrate-judge", file, "--out", out), "give one of refusal, partial")
    assert not out.exists()


def test_an_unknown_judge_and_a_missing_column_are_refused(labelled, tmp_path):
    out = tmp_path / "calibration.json"
    refused(invoke("calibrate-judge", labelled, "--out", out, "--judge", "x"), "'x' is no judge")
    result = invoke("calibrate-judge", labelled, "--out", out, "--label-column", "y")
    refused(result, "has no column 'y'")
