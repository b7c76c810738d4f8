"""The stability card: its parts on a tiny pair, its rules by hand, a random set called noise."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from safety_neurons import registry
from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, texts_of
from safety_neurons.judges import Verdict
from safety_neurons.methods.attribution import AttributionSums
from safety_neurons.methods.utility import UTILITY
from safety_neurons.prompts import ChatFormat
from safety_neurons.report import render_report
from safety_neurons.runs import RunFolder, reload_pair
from safety_neurons.runs.stability import Overlap, SetEffect
from safety_neurons.storage import digest
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.stability import stability
from safety_neurons.studies.stability.verdict import HALVES, judged
from safety_neurons.studies.validation import TestPrompts, ValidateOptions, validate
from safety_neurons.units import UnitSet, UnitSpace
from tests.commands import invoke, refused
from tests.tiny import down_projections, logits_of, neurons_of, pre_hooks, prompts, words


def effect(value, low=None, high=None, name="a set") -> SetEffect:
    return SetEffect(name=name, k=4, causal_effect=value, ci_low=low, ci_high=high)


def halves(iou: float | None) -> list[Overlap]:
    return [Overlap(changed=HALVES, against="x", k=4, iou=iou, chance=0.01, rank_correlation=0.5)]


@pytest.mark.parametrize(
    ("own", "controls", "iou", "transfers", "expected", "because"),
    [
        (effect(0.9, 0.8, 1.0), [effect(0.1)], 0.6, [], "stable", "above every control"),
        (effect(0.9, 0.8, 1.0), [effect(0.1)], 0.4, [], "fragile", "halves"),
        (effect(0.9, 0.8, 1.0), [effect(0.1)], 0.02, [], "noise", "halves"),
        (effect(0.9, 0.8, 1.0), [effect(0.1), effect(0.85)], 0.6, [], "noise", "control set"),
        (effect(None), [effect(0.1)], 0.6, [], "unknown", "cannot be told"),
        (effect(None), [effect(0.1)], 0.02, [], "noise", "halves"),
        (effect(0.9, 0.8, 1.0), [], 0.6, [effect(0.5)], "stable", "other runs"),
        (effect(0.9, 0.8, 1.0), [], 0.6, [effect(0.4, name="seed 2")], "fragile", "seed 2"),
        (effect(0.9, 0.8, 1.0), [], 0.6, [effect(None, name="seed 2")], "fragile", "seed 2"),
    ],
)
def test_the_rules(own, controls, iou, transfers, expected, because):
    verdict, reasons = judged(own, controls, halves(iou), transfers)
    assert verdict == expected
    assert because in "; ".join(reasons)


def test_the_card_of_a_tiny_run(whole_run, files, tmp_path):
    run, other = (shutil.copytree(whole_run, tmp_path / name) for name in ("run", "other"))
    said = invoke(
        "stability", run, other, "--harmless", files["harmless"], "--device", "cpu", "--controls", 2
    )
    assert said.exit_code == 0, said.output
    card = json.loads((run / "stability.json").read_text())
    assert card["sentence"] if "sentence" in card else card["reasons"]
    by_change = {}
    for row in card["overlaps"]:
        by_change.setdefault(row["changed"], []).append(row)
    assert set(by_change) == {
        HALVES,
        "ranking",
        "whose completions",
        "units of harmless answers",
        "run",
    }
    (twin,) = by_change["run"]
    assert twin["iou"] == twin["rank_correlation"] == pytest.approx(1)
    assert card["transfers"][0]["causal_effect"] == card["own"]["causal_effect"]
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    assert f"Stability: {card['verdict']}" in page
    # Another validation makes the card outdated, and the page with it.
    (run / "stability.json").write_text("{}")
    refused(invoke("report", run), "is not what the command wrote")


def test_runs_in_folders_of_one_name_are_both_compared(whole_run, files, tmp_path):
    """A dictionary by the last part of the path would drop one of them without a word."""
    runs = [shutil.copytree(whole_run, tmp_path / part / "run") for part in ("own", "a", "b")]
    said = invoke("stability", *runs, "--harmless", files["harmless"], "--device", "cpu")
    assert said.exit_code == 0, said.output
    card = json.loads((runs[0] / "stability.json").read_text())
    assert [row["name"] for row in card["transfers"]] == [str(run) for run in runs[1:]]


def test_runs_that_cannot_be_compared_are_said(whole_run, tmp_path):
    refused(invoke("stability", tmp_path), "no run folder")
    refused(invoke("stability", whole_run, "--judge", "magic"), "magic")


class Dice:
    """A ranking that is drawn from the prompts' digest: no two sets of prompts agree."""

    version, label, batch_share = "dice-1", "Rolling dice", 1.0

    def completions_of(self, contrasted):
        return contrasted

    def zero(self, space):
        return AttributionSums.zero(space)

    def measure(self, pair, prompts, completions, space):
        generator = torch.Generator().manual_seed(int(digest(list(prompts)), 16) % 2**31)
        drawn = torch.rand(space.total, generator=generator, dtype=torch.float64)
        return AttributionSums(len(prompts), drawn)

    def scores(self, sums):
        return sums.attribution


class Alike:
    """Refusals are the aligned model's own answers, whatever they say."""

    def __init__(self, texts):
        self.name, self.texts = "alike-1", set(texts)

    def __call__(self, prompts, responses):
        return [Verdict.REFUSAL if text in self.texts else Verdict.COMPLIANCE for text in responses]


FOUND, SELECT, TEST, HARMLESS = (
    words(name, seed) for seed, name in enumerate(("find", "select", "test", "harmless"))
)
DECODING = Decoding(4, 8)


@pytest.fixture(scope="module")
def pair_and_judge(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    texts, chat = [], ChatFormat()
    for asked in (SELECT, TEST):
        encoded = encode_prompts(pair, asked, DECODING, chat)
        (own,) = answer(pair, encoded, [Setting(Side.ALIGNED)], DECODING)
        texts += texts_of(pair, own, chat)
    return pair, Alike(texts)


def test_a_set_drawn_at_random_is_noise(pair_and_judge, tmp_path, monkeypatch):
    pair, judge = pair_and_judge
    monkeypatch.setitem(registry.RANKINGS._values, "dice", Dice())
    run = find(pair, tmp_path / "run", FOUND, FindOptions(("dice",), decoding=DECODING))
    summary = validate(
        run,
        pair,
        TestPrompts(SELECT, TEST, HARMLESS, HARMLESS),
        ValidateOptions((0.25,), 3, decoding=DECODING),
        judge=judge,
    )
    assert summary.ceiling == pytest.approx(1)
    card = stability(run, pair, harmless=HARMLESS, judge=judge)
    assert card.own.causal_effect is not None
    assert card.n == 12
    assert card.verdict == "noise"
    page = render_report(RunFolder.open(run.path)).read_text()
    assert "Stability: noise" in page
    part = page[page.index('<section id="stability">') :]
    assert part.index("<svg") < part.index("<table") < part.index("By which rules")
    drawn = (run.path / "figure-stability.svg").read_text()
    for one in (card.own, *card.random, *card.magnitude):
        assert drawn.count(f"<title>{one.name}: effect ") == 1


def test_another_judge_than_the_runs_is_refused(pair_and_judge, zoo, whole_run, tmp_path):
    _, judge = pair_and_judge
    run = RunFolder.open(shutil.copytree(whole_run, tmp_path / "run"))
    with pytest.raises(UserError, match="not by 'alike-1'"):
        stability(run, reload_pair(run, dtype=torch.float32, device="cpu"), judge=judge)


# Controls of the same magnitude.


def test_sets_of_the_same_magnitude_are_near_and_outside():
    space = UnitSpace.neurons((50, 50))
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    units = UnitSet.of(torch.tensor([3, 4, 60]), space)
    drawn = units.matched_by(values, 0)
    assert drawn.per_block() == units.per_block()
    assert len(drawn & units) == 0
    for own, theirs in zip(
        values[units.flat[:2]].sort().values, values[drawn.flat[:2]].sort().values, strict=True
    ):
        assert abs(own - theirs) < 0.15
    assert units.matched_by(values, 0) == drawn
    assert UnitSet.of(torch.arange(30), space).matched_by(values, 0) is None


# Utility.


def test_saliency_equals_plain_autograd(zoo):
    completions = [[20, 21, 22], [30], [40, 41]]
    source = zoo.source("llama", "ia3")
    pair, plain = zoo.pair(source, zoo.source("llama", None)), zoo.model(source)
    found = UTILITY.measure(pair, prompts(), completions, pair.space())
    expected = torch.zeros(pair.space().total, dtype=torch.double)
    sites = down_projections(plain, "llama")
    for prompt, completion in zip(prompts(), completions, strict=True):
        tokens = [*prompt, *completion[:-1]]
        values = neurons_of(plain, "llama", tokens)
        added = [torch.zeros_like(x, requires_grad=True) for x in values]
        with pre_hooks(sites, lambda layer, x, added=added: x + added[layer]):
            logits = torch.log_softmax(logits_of(plain, tokens)[len(prompt) - 1 :], dim=-1)
            sum(logits[i, t] for i, t in enumerate(completion)).div(len(completion)).backward()
        expected += torch.cat(
            [(x * zero.grad).sum(0).abs() for x, zero in zip(values, added, strict=True)]
        )
    assert expected.max() > 1e-3
    torch.testing.assert_close(found.attribution, expected, rtol=1e-7, atol=1e-9)
