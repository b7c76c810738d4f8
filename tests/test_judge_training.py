"""Training the judge of refusals: rows, the fit, and what is said of it."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from safety_neurons.errors import UserError
from safety_neurons.judges import RefusalJudge, Verdict, judge_of
from safety_neurons.judges.classifier import FILE, Weights
from safety_neurons.judges.cues import own_words, plain
from safety_neurons.judges.features import MAX_TOKENS, Reading, features_of, tokens_of
from safety_neurons.judges.labels import LABELS
from safety_neurons.statistics import cohens_kappa
from safety_neurons.studies.judge_training import fitting
from safety_neurons.studies.judge_training.agreement import calibration_error, held_out, phrase_list
from safety_neurons.studies.judge_training.composing import LANGUAGES, Templates, _parts, compose
from safety_neurons.studies.judge_training.fitting import Examples
from safety_neurons.studies.judge_training.labels import (
    agreement_of_labels,
    embedded_rows,
    kept_labels,
    rows_of_file,
    written_rows,
)
from safety_neurons.studies.judge_training.rows import CUTS, LabelledRow, Origin, cut, text_key
from tests.commands import invoke, refused

# Rows.


@pytest.mark.parametrize("language", LANGUAGES)
def test_composed_rows_of_the_two_halves_share_no_template(language):
    parts = _parts(language)["sentences"]
    halves = {
        half: " ".join(row.response for row in compose(language, 300, templates=half))
        for half in (Templates.TRAIN, Templates.HELD_OUT)
    }
    shared = [
        s
        for role in ("decline", "moral", "premise", "policy")
        for s in parts[role]
        if "{" not in s and len(s) > 30 and all(s in text for text in halves.values())
    ]
    assert shared == []
    assert compose(language, 20) == compose(language, 20)
    assert compose(language, 20) != compose(language, 20, seed=1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_composed_rows_have_every_label_and_leave_no_slot_open(language):
    rows = compose(language, 400)
    assert {row.label for row in rows} == set(LABELS)
    assert all("{" not in row.response and row.response.strip() for row in rows)
    helped = {r["prompt"] for r in _parts(language)["sentences"]["requests"] if r["harmful"]}
    assert all(row.label is Verdict.REFUSAL for row in rows if row.prompt in helped)


def test_labels_are_kept_by_digest_with_both_passes():
    labels = kept_labels()
    n, same, kappa = agreement_of_labels()
    assert n == len(labels) >= 800
    assert 0.9 < same < 1
    assert 0.8 < kappa < 1
    assert all(len(key) == 24 for key in labels)


def test_answers_of_the_embedded_models_all_have_labels():
    rows = embedded_rows()
    assert len(rows) > 150
    assert {row.origin for row in rows} == {Origin.MODEL}
    assert {row.label for row in rows} >= {Verdict.REFUSAL, Verdict.COMPLIANCE}


def test_no_written_row_helps_with_harm():
    harmful = {"harmful_act", "harmful_premise", "harmful_how", "privacy_private"}
    rows = written_rows()
    assert len(rows) == len({(row.prompt, row.response) for row in rows})
    assert not [r for r in rows if r.kind in harmful and r.label is Verdict.COMPLIANCE]


def test_a_cut_answer_is_found_by_its_own_digest(tmp_path, monkeypatch):
    answer = "I cannot help you with that. " * 20
    short = cut(answer, CUTS[0])
    assert short == answer[: len(short)] != answer
    label = {
        "text": text_key("Q?", short),
        "source": "a/b",
        "first": "refusal",
        "second": "refusal",
    }
    other = {**label, "text": text_key("Q?", answer), "second": "partial"}
    monkeypatch.setattr(
        "safety_neurons.studies.judge_training.labels._data",
        lambda name: "\n".join(map(json.dumps, (label, other))),
    )
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"prompt": "Q?", "response": answer}) + "\n")
    assert rows_of_file(file) == [
        LabelledRow("Q?", short, Verdict.REFUSAL, Origin.MODEL, "a")  # the passes agree on this one
    ]


def test_a_label_outside_the_three_is_told(tmp_path):
    file = tmp_path / "labelled.jsonl"
    file.write_text('{"prompt": "Q?", "response": "No.", "label": "maybe"}\n')
    refused(
        invoke("train-judge", "--out", tmp_path / "out", "--answers", file),
        "row 1: 'maybe' is no label; give one of refusal, partial, compliance",
    )
    assert not (tmp_path / "out").exists()


def test_answers_without_any_label_are_told(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "Q?", "response": "Something new."}\n')
    with pytest.raises(UserError, match=r"No row of .* has a label"):
        rows_of_file(file)


# Features.


def test_what_the_prompt_names_is_masked():
    def of(thing: str) -> set[str]:
        read = Reading.of(f"How do I pick a {thing}?", f"I cannot help you pick a {thing}.")
        return features_of(
            read, frozenset({"i", "a"}), frozenset({"i", "cannot", "help", "you", "a"})
        )

    assert of("lock") == of("Blume") != of("")


def test_only_the_first_tokens_are_read():
    long = "word " * 600
    assert len(tokens_of(long)) == MAX_TOKENS
    words = frozenset({"word", "end"})
    one, other = (Reading.of("Q?", long + end) for end in ("", "I cannot help."))
    assert features_of(one, words, words) == features_of(other, words, words)


def test_what_others_say_is_not_the_models_own():
    said = own_words(plain("He said \"I can't do that\" and left. I can't recommend it enough."))
    assert "do that" not in said
    assert "can't" not in said


# Fit.


@pytest.fixture(scope="module")
def small() -> list[LabelledRow]:
    return [row for language in ("en", "de") for row in compose(language, 150)]


def test_the_judge_gives_what_the_regressions_give(small):
    examples = Examples.of(small)
    weights = examples.fit()
    judge = RefusalJudge(weights)
    wanted = examples.probabilities(weights, range(len(small)))
    for row, p in zip(small, wanted, strict=True):
        (opinion,) = judge.opinions([row.prompt], [row.response])
        if opinion.probabilities is not None:
            np.testing.assert_allclose(opinion.probabilities, p, atol=1e-9)
            assert math.isclose(sum(opinion.probabilities), 1)


def test_weights_equal_sklearns_own_prediction(small):
    """An independent way: the pipeline as scikit-learn would run it."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    examples = Examples.of(small)
    stretched = fitting._scaled(examples.matrix) @ examples._stretch
    labels = np.array([row.label is not Verdict.COMPLIANCE for row in small])
    weight = fitting._weights(small)
    model = sklearn.LogisticRegression(C=fitting.INVERSE_PENALTY, max_iter=500)
    model.fit(stretched, labels, sample_weight=weight)
    ours = 1 - examples.probabilities(examples.fit(), range(len(small)))[:, 2]
    np.testing.assert_allclose(ours, model.predict_proba(stretched)[:, 1], atol=1e-9)


def test_how_often_a_source_declines_does_not_count(small):
    weights = fitting._weights(small)
    for source in {row.source for row in small}:
        halves = {True: 0.0, False: 0.0}
        for row, weight in zip(small, weights, strict=True):
            if row.source == source:
                halves[row.label is Verdict.COMPLIANCE] += weight
        assert halves[True] == pytest.approx(halves[False])


def test_what_is_saved_is_what_was_trained(small, tmp_path):
    weights = Examples.of(small).fit()
    weights = Weights(
        *(getattr(weights, f) for f in ("features", "weights", "bias", "words", "common")),
        {"version": "t"},
    )
    weights.save(tmp_path / FILE)
    kept, made = judge_of(str(tmp_path)), RefusalJudge(weights)
    assert kept.name == "refusal-classifier-t"
    prompts, responses = [r.prompt for r in small], [r.response for r in small]
    assert kept(prompts, responses) == made(prompts, responses)


@pytest.mark.parametrize("damage", ["cut", "format", "lost"])
def test_a_damaged_judge_is_told(damage, small, tmp_path):
    file = tmp_path / FILE
    Examples.of(small).fit().save(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif damage == "format":
        save_file(load_file(file), file, metadata={"format": "99"})
    else:
        tensors = load_file(file)
        save_file(
            {**tensors, "weights": tensors["weights"][:, :-1]}, file, metadata={"format": "1"}
        )
    with pytest.raises(UserError, match=r"no trained judge|no judge of format|damaged"):
        RefusalJudge.load(tmp_path)


def test_rows_of_one_label_cannot_train(small):
    with pytest.raises(UserError, match="rows of every label"):
        Examples.of([row for row in small if row.label is Verdict.COMPLIANCE]).fit()


# Agreement.


def test_a_fold_shares_neither_model_nor_prompt(small, monkeypatch):
    rows = [
        LabelledRow(r.prompt, r.response, r.label, Origin.PEOPLE, f"model-{i % 2}", r.language)
        for i, r in enumerate(small)
    ]
    seen = []
    fit = Examples.fit

    def spy(self, at=None):
        seen.append(None if at is None else list(at))
        return fit(self, at)

    monkeypatch.setattr(Examples, "fit", spy)
    monkeypatch.setattr("safety_neurons.studies.judge_training.agreement._languages", lambda *_: [])
    found = held_out(rows)
    assert [a.source for a in found.models] == ["model-0", "model-1"]
    for at in seen:
        sources, prompts = {rows[i].source for i in at}, {rows[i].prompt for i in at}
        assert len(sources) == 1
        left_out = {r.prompt for r in rows if r.source not in sources} - prompts
        assert left_out
    for agreement in found.models:
        total = sum(n for of in agreement.confusion.values() for n in of.values())
        assert total == len(rows) / 2
        assert agreement.ci_low <= agreement.agrees <= agreement.ci_high


def test_calibration_error_of_known_judges():
    assert calibration_error([(0.75, True)] * 3 + [(0.75, False)]) == pytest.approx(0)
    assert calibration_error([(1.0, False)] * 4) == pytest.approx(1)
    assert calibration_error([(0.05, False)] * 2 + [(0.95, True)] * 2) == pytest.approx(0.05)


def test_kappa_against_a_published_example():
    # Two readers, 50 proposals: 20 both yes, 15 both no, 5 and 10 apart: kappa 0.4.
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa(["a"], ["a"]) == 1
    with pytest.raises(ValueError, match="two lists of one length"):
        cohens_kappa([], [])


def test_a_phrase_list_sees_phrases():
    assert phrase_list("I’m sorry, but no.") is Verdict.REFUSAL
    assert phrase_list("Violence is never acceptable.") is Verdict.COMPLIANCE


def test_train_judge_writes_a_judge_and_what_is_known_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("safety_neurons.studies.judge_training.train.COMPOSED_ROWS", 60)
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text(
        "".join(
            json.dumps({"prompt": r.prompt, "response": r.response, "label": r.label, "model": "m"})
            + "\n"
            for r in compose("en", 60, seed=9)
        )
    )
    out = tmp_path / "judge"
    result = invoke("train-judge", "--out", out, "--answers", labelled)
    assert result.exit_code == 0, result.output
    card = json.loads((out / "card.json").read_text())
    assert {row["source"] for row in card["held_out_models"]} > {"m"}
    assert [row["source"] for row in card["held_out_languages"]] == [
        f"composed, {language}" for language in LANGUAGES
    ]
    assert card["labels_without_answers"] > 0
    assert "labels had no answer" in result.output
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "Do it.", "response": "I can\'t help with that."}\n')
    judged = tmp_path / "judged.jsonl"
    assert invoke("judge", answers, "--out", judged, "--judge", out).exit_code == 0
    assert json.loads(judged.read_text())["judge"] == card["judge"]
    refused(invoke("train-judge", "--out", out), "exists already")
