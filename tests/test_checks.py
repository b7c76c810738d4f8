"""How far figures rest on the judge, and whether answers are language."""

import json
from dataclasses import replace

import numpy as np
import pytest

from safety_neurons.judges import Verdict, readability
from safety_neurons.judges.calibration import Calibration
from safety_neurons.judges.classifier import FILE
from safety_neurons.judges.cues import states_inability
from safety_neurons.studies.evaluator import Judged
from safety_neurons.studies.judge_training.composing import compose
from safety_neurons.studies.judge_training.fitting import Examples
from safety_neurons.studies.validation import checks
from tests.commands import invoke, refused

R, P, C, U = Verdict.REFUSAL, Verdict.PARTIAL, Verdict.COMPLIANCE, Verdict.UNSCORED


def verdicts(unaligned, aligned, patched):
    return {"unaligned": unaligned, "aligned": aligned, "patched": patched}


def judged(*of):
    return {n: Judged(["I won't."] * len(v), list(v)) for n, v in verdicts(*of).items()}


def test_repetition_and_entropy_of_known_answers():
    assert readability.repetition([1, 2, 3, 4, 5]) == 0
    assert readability.repetition([7] * 12) == pytest.approx(1 - 1 / 10)
    assert readability.repetition([1]) == 0
    assert readability.entropy([7] * 9) == 0
    assert readability.entropy([1, 2, 3, 4]) == 2
    assert readability.entropy([]) == 0


def test_partial_and_unscored_are_counted_otherwise_where_there_are_any():
    of = judged([C] * 10, [R] * 10, [R] * 6 + [P] * 2 + [U] + [C])
    found = {one.counting: one for one in checks._otherwise(of, 0)}
    assert set(found) == {"partial", "unscored"}
    assert found["partial"].causal_effect == pytest.approx(0.8)
    assert found["unscored"].causal_effect == pytest.approx(0.7)
    assert found["partial"].answers == 2
    assert list(checks._otherwise(judged([C] * 9, [R] * 9, [R] * 9), 0)) == []


def test_refusals_by_inability_are_counted_otherwise():
    of = judged([R] * 2 + [C] * 8, [R] * 10, [R] * 10)
    unable = "I'm sorry, but I don't have the capability to send e-mails."
    of["unaligned"].responses[:2] = [unable] * 2
    of["patched"].responses[0] = unable
    (one,) = checks._otherwise(of, 0)
    assert one.counting == "inability"
    assert one.answers == 3
    assert one.causal_effect == pytest.approx((9 - 0) / 10)
    assert not states_inability("I won't help with that. Theft is illegal.")


def test_refusals_that_loop_are_counted_otherwise():
    of = judged([C] * 10, [R] * 10, [R] * 10)
    of["patched"].responses[:3] = ["I'm not able to help with this. " * 6] * 3
    of["unaligned"].responses[0] = "Step one. " * 20  # no refusal: nothing to count otherwise
    (one,) = checks._otherwise(of, 0)
    assert (one.counting, one.answers) == ("looping", 3)
    assert one.causal_effect == pytest.approx(0.7)


def errors(se, sp, n=2000):
    yes, no = round(se * n), round(sp * n)
    labels = [R] * n + [C] * n
    given = [R] * yes + [C] * (n - yes) + [C] * no + [R] * (n - no)
    return labels, given


def test_one_pair_of_errors_cancels_in_an_effect():
    labels, given = errors(0.8, 0.9)
    calibration = Calibration.measured("j", labels, given, [None] * len(labels))
    of = verdicts([C] * 40, [R] * 36 + [C] * 4, [R] * 27 + [C] * 13)
    found = checks._corrected(of, calibration, 0)
    assert found.cancels
    assert found.causal_effect == checks._effect(of, 0).value == pytest.approx(0.75)
    assert found.refusal_rates["aligned"].value == 1  # (0.9 + 0.9 - 1) / 0.7, kept within 1
    assert found.refusal_rates["unaligned"].value == 0


def test_errors_of_each_condition_move_an_effect():
    parts = {"unaligned": (0.9, 0.9), "aligned": (0.9, 0.9), "patched": (0.7, 0.95)}
    labels, given, conditions = [], [], []
    for name, (se, sp) in parts.items():
        a, b = errors(se, sp)
        labels += a
        given += b
        conditions += [name] * len(a)
    calibration = Calibration.measured("j", labels, given, conditions)
    of = verdicts([R] * 4 + [C] * 36, [R] * 34 + [C] * 6, [R] * 20 + [C] * 20)
    found = checks._corrected(of, calibration, 0)
    rate = {
        name: (np.mean([v is R for v in of[name]]) + sp - 1) / (se + sp - 1)
        for name, (se, sp) in parts.items()
    }
    wanted = (rate["patched"] - rate["unaligned"]) / (rate["aligned"] - rate["unaligned"])
    assert not found.cancels
    assert found.causal_effect == pytest.approx(wanted)
    assert found.ci_low < wanted < found.ci_high
    plain = checks._effect(of, 0)
    assert found.ci_high - found.ci_low > plain.ci_high - plain.ci_low


def test_errors_without_labelled_refusals_correct_nothing():
    calibration = Calibration.measured("j", [C, C], [C, C], ["patched"] * 2)
    of = verdicts([C] * 10, [R] * 10, [R] * 10)
    found = checks._corrected(of, calibration, 0)
    assert found.causal_effect is None
    assert found.refusal_rates["patched"].value is None


def test_validate_takes_several_judges_and_a_calibration(
    find_arguments, validate_arguments, tmp_path
):
    run, labelled = tmp_path / "run", tmp_path / "labelled.jsonl"
    labelled.write_text(
        "".join(
            json.dumps({"prompt": "Do it.", "response": text, "label": label}) + "\n"
            for text, label in (
                ("I can't help with that.", "refusal"),
                ("Sure: mix.", "compliance"),
            )
            for _ in range(4)
        )
    )
    calibration = tmp_path / "calibration.json"
    assert invoke("calibrate-judge", labelled, "--out", calibration).exit_code == 0
    assert invoke(*find_arguments, "--out", run).exit_code == 0
    other = tmp_path / "judge"
    other.mkdir()
    weights = Examples.of(compose("en", 100)).fit()
    replace(weights, facts={"version": "other"}).save(other / FILE)
    result = invoke(
        "validate", run, *validate_arguments, "--judge", "refusal-classifier", "--judge", other,
        "--calibration", calibration,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads((run / "summary.json").read_text())
    judging = summary["judging"]
    assert [one["judge"] for one in judging["others"]] == ["refusal-classifier-other"]
    assert judging["corrected"]["labelled"] == 8
    assert judging["corrected"]["cancels"]
    assert set(summary["coherence"]) >= {"unaligned", "aligned", "patched"}
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    for said in (
        "How refusals were judged",
        "refusal-classifier-other",
        "they cancel in an effect",
    ):
        assert said in page
    assert "Are the patched answers language?" in page
    refused(
        invoke(
            "validate", run, *validate_arguments, "--judge", other, "--calibration", calibration
        ),
        "is the calibration of 'refusal-classifier-",
    )
    refused(
        invoke("validate", run, *validate_arguments, "--judge", other, "--judge", other),
        "is named twice",
    )


def test_judges_that_disagree_are_told(tmp_path, monkeypatch):
    class Never:
        name = "never-1"

        def __call__(self, prompts, responses):
            return [C] * len(responses)

    monkeypatch.setitem(__import__("safety_neurons").JUDGES._values, "never", Never())
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        '{"prompt": "Do it.", "response": "I can\'t help with that."}\n'
        '{"prompt": "Do it.", "response": "Sure! Here is how: mix it."}\n'
    )
    out = tmp_path / "out.jsonl"
    result = invoke(
        "judge", answers, "--out", out, "--judge", "refusal-classifier", "--judge", "never"
    )
    assert "differ on 1 of 2 answers (Cohen's kappa 0.00)" in " ".join(result.output.split())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["verdict"] for row in rows] == ["refusal", "compliance"]
    assert rows[0]["p_refusal"] > 0.5 > rows[1]["p_refusal"]
    assert all(row["judge"].startswith("refusal-classifier-") for row in rows)
    assert rows[0]["other_judges"]["never-1"] == {
        "verdict": "compliance", "p_refusal": None, "p_partial": None, "p_compliance": None
    }  # fmt: skip
