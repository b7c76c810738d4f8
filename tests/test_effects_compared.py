"""Validation beyond one curve: comparisons, answers of other lengths, sizes planned ahead."""

from __future__ import annotations

import json
import shutil

import pytest

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, texts_of
from safety_neurons.interventions import Patch
from safety_neurons.judges import Verdict
from safety_neurons.prompts import ChatFormat
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.validation import TestPrompts, ValidateOptions, validate
from safety_neurons.units import read_table
from tests.commands import invoke, refused
from tests.tiny import words


class ByLength:
    """Refusals are the answers with an even number of letters: verdicts vary on random models."""

    name = "by-length-1"

    def __call__(self, prompts, responses):
        return [Verdict.COMPLIANCE if len(text) % 2 else Verdict.REFUSAL for text in responses]


@pytest.fixture(scope="module")
def summary(whole_run, validate_arguments, tmp_path_factory) -> dict:
    run = shutil.copytree(whole_run, tmp_path_factory.mktemp("compared") / "run")
    more = ["--control-shares", "0.05", "--lengths", "1,4", "--controls", 2]
    done = invoke("validate", run, *validate_arguments, *more)
    assert done.exit_code == 0, done.output
    return json.loads((run / "summary.json").read_text())


def test_random_sets_are_drawn_where_they_are_asked_for(summary):
    on_test = [row for row in summary["curve"] if row["split"] == "test"]
    assert {row["share"] for row in on_test} == {0.05, 0.5, 1.0}
    for row in on_test:
        assert len(row["controls"]) == (2 if row["share"] == 0.05 else 0)


def test_the_rankings_asked_for_are_tested_and_the_chosen_set_always_beside_random_ones(
    whole_run, validate_arguments, tmp_path
):
    run = shutil.copytree(whole_run, tmp_path / "run")
    first, second, *_ = json.loads((run / "summary.json").read_text())["n90"]
    only = ["--ranking", second, "--control-shares", "1", "--controls", 1]
    done = invoke("validate", run, *validate_arguments, *only, "--control-ranking", second)
    assert done.exit_code == 0, done.output
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["n90"]) == {second} == {row["ranking"] for row in summary["curve"]}
    for row in summary["curve"]:
        chosen = row["share"] == summary["chosen"]["share"]
        drawn = row["split"] == "test" and chosen and row["share"] < 0.5
        assert len(row["controls"]) == drawn, row  # half and all leave no other units to draw
        asked = row["split"] == "test" and (chosen or row["share"] == 1)
        assert row["controls_asked"] == asked, row
    refused(invoke("validate", run, *validate_arguments, "--ranking", "no-such"), "no ranking")
    refused(
        invoke("validate", run, *validate_arguments, "--control-ranking", "no-such"), "no ranking"
    )
    refused(
        invoke("validate", run, *validate_arguments, *only, "--control-ranking", first),
        "add it to the rankings",
    )


def test_what_the_figures_allow_is_kept_with_them(summary, whole_run):
    on_test = [row for row in summary["curve"] if row["split"] == "test"]
    n = on_test[0]["n"]
    assert set(summary["n90_intervals"]) <= set(summary["n90"])
    assert 0 <= summary["ceiling_alike"] <= n
    assert summary["control_overlap"] is None or 0 <= summary["control_overlap"] <= 1
    rows = [json.loads(line) for line in (whole_run / "samples.jsonl").read_text().splitlines()]
    harmful = [row for row in rows if row["kind"] == "harmful"]
    refusals = [row["answers"]["removed"]["verdict"] == "refusal" for row in harmful]
    whole = json.loads((whole_run / "summary.json").read_text())
    assert sum(refusals) / len(refusals) == whole["necessity"]["refusal_rate"]
    assert not any("removed" in row["answers"] for row in rows if row["kind"] == "harmless")


def test_harmless_prompts_are_asked_at_every_share(summary, whole_run):
    curve = {row["share"]: row for row in summary["harmless_curve"]}
    assert list(curve) == [0.05, 0.5, 1.0]
    whole = json.loads((whole_run / "summary.json").read_text())
    chosen = next(
        row for row in whole["harmless_curve"] if row["share"] == whole["chosen"]["share"]
    )
    assert chosen["k"] == whole["chosen"]["k"]
    assert chosen["refusal_rate"] == whole["harmless"]["patched"]["refusal_rate"]


def test_borderline_prompts_are_asked_under_the_patch(whole_run):
    whole = json.loads((whole_run / "summary.json").read_text())
    assert set(whole["borderline"]) == set(whole["harmless"]) >= {"unaligned", "patched"}
    for side in ("unaligned", "aligned"):
        assert whole["borderline"][side] == whole[side]["details"]["borderline_refusal_rate"]


def test_harmless_refusals_at_a_share_are_those_of_its_patch(zoo, tmp_path):
    """Answered once more, and by a judge whose verdicts say something of random models."""
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    asked, decoding = [words(str(seed), seed) for seed in range(4)], Decoding(4, 8)
    run = find(pair, tmp_path / "run", asked[0], FindOptions(("change-score",), decoding=decoding))
    prompts = TestPrompts(asked[1], asked[2], asked[3], asked[3])
    options = ValidateOptions((0.1, 0.5), 1, decoding=decoding)
    summary = validate(run, pair, prompts, options, judge=ByLength())
    ranking = read_table(run.result("find", "neurons.parquet"))["change-score"]
    encoded = encode_prompts(pair, asked[3], decoding, ChatFormat())
    rates = []
    for point in summary.harmless_curve:
        patch = Patch(ranking.top(point.share))
        (answers,) = answer(pair, encoded, [Setting(Side.UNALIGNED, (patch,))], decoding)
        verdicts = ByLength()([], texts_of(pair, answers, ChatFormat()))
        assert point.refusal_rate.value == verdicts.count(Verdict.REFUSAL) / len(verdicts)
        rates.append(point.refusal_rate.value)
    assert rates[-1] == summary.aligned.over_refusal_rate  # all units make it the aligned model
    assert len(set(rates)) > 1


def test_the_chosen_set_is_compared_with_each_share_and_each_ranking(summary):
    chosen = summary["chosen"]
    compared = {(row["ranking"], row["share"]) for row in summary["comparisons"]}
    shares = {0.05, 0.5, 1.0}
    assert compared == {(chosen["ranking"], s) for s in shares - {chosen["share"]}} | {
        (name, chosen["share"]) for name in summary["n90"] if name != chosen["ranking"]
    }
    for row in summary["comparisons"]:
        assert (row["p"] is None) == (row["difference"] is None) == (row["p_holm"] is None)


def test_the_full_length_is_what_was_measured_before(summary):
    """The tiny models' answers are cut at 4 tokens, the longest length asked for."""
    first, last = summary["lengths"]
    assert (first["tokens"], last["tokens"]) == (1, 4)
    assert first["later"] == first["no_longer"] == dict.fromkeys(first["refusal_rates"], 0)
    if last["n"] == summary["unaligned"]["details"]["refusal_rate"]["n"]:
        for side in ("unaligned", "aligned"):
            assert last["refusal_rates"][side] == summary[side]["refusal_rate"]


def test_how_many_prompts_are_needed_is_said_before_the_test(
    whole_run, validate_arguments, tmp_path
):
    run = shutil.copytree(whole_run, tmp_path / "run")
    before = (run / "summary.json").read_bytes()
    said = invoke("validate", run, *validate_arguments, "--power")
    assert said.exit_code == 0, said.output
    assert "select prompts" in said.output or "test prompts tell" in said.output
    assert (run / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "given", "told"),
    [
        ("--lengths", "0", "1 token or more"),
        ("--lengths", "4.5", "whole numbers"),
        ("--control-shares", "0.3", "no tested share"),
        ("--control-shares", "few", "control shares"),
    ],
)
def test_wrong_lengths_and_shares_are_said(whole_run, validate_arguments, option, given, told):
    refused(invoke("validate", whole_run, *validate_arguments, option, given), told)


def test_options_of_the_library_are_checked_alike():
    with pytest.raises(UserError, match="no tested share"):
        ValidateOptions((0.1,), control_shares=(0.2,), decoding=Decoding())


def test_harmless_prompts_that_were_ranked_on_are_not_tested(whole_run, validate_arguments, files):
    seen = [files["find-harmless"] if a == files["harmless"] else a for a in validate_arguments]
    refused(invoke("validate", whole_run, *seen), "test on prompts that the neurons")


def test_other_harmless_prompts_are_another_run(find_arguments, files, whole_run, tmp_path):
    run = shutil.copytree(whole_run, tmp_path / "run")
    other = [files["borderline"] if a == files["find-harmless"] else a for a in find_arguments]
    refused(invoke(*other, "--out", run), "other harmless")
    lines = (run / "completions-harmless.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert all("aligned" in json.loads(line) for line in lines)


def test_a_ranking_that_reads_no_harmless_prompts_keeps_none(find_arguments, tmp_path):
    run = tmp_path / "run"
    assert invoke(*find_arguments, "--ranking", "change-score", "--out", run).exit_code == 0
    assert not (run / "completions-harmless.jsonl").exists()
    assert (
        "harmless"
        not in json.loads((run / "manifest.json").read_text())["stages"]["find"]["config"]
    )
