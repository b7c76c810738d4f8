"""Fragility: its figures by hand, the study on tiny models, the command, and its part of a page."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from safety_neurons import registry
from safety_neurons.engine import ALONE, Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, texts_of
from safety_neurons.interventions import Ablate, Scale
from safety_neurons.judges import Verdict
from safety_neurons.models import LoadedModel
from safety_neurons.prompts import ChatFormat
from safety_neurons.report import render_report
from safety_neurons.report.fragility import amplification_finding, finding
from safety_neurons.runs import RunFolder
from safety_neurons.runs.fragility import (
    ABLATION,
    GIVEN,
    MAGNITUDE,
    RANDOM,
    Amplified,
    FragilityCard,
    RefusalRate,
    RemovalPoint,
)
from safety_neurons.statistics import rate
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.fragility import (
    FragilityOptions,
    FragilityPrompts,
    fragility,
    fragility_of_model,
)
from safety_neurons.studies.fragility.removals import concentration, sizes
from safety_neurons.studies.fragility.topic import topics
from safety_neurons.studies.validation import TestPrompts, ValidateOptions, validate
from safety_neurons.units import SiteKind, UnitSet, UnitSpace, save_set
from tests.commands import invoke, refused
from tests.tiny import words

FOUND, TESTED, MEANS, HARMLESS, SELECT = (
    words(name, seed)
    for seed, name in enumerate(("found", "tested", "means", "harmless", "select"))
)
ASKED = FragilityPrompts(FOUND, TESTED, MEANS, HARMLESS)
OPTIONS = FragilityOptions(
    shares=(0.02, 0.25), factors=(1.5, 3.0), singles=5, generated=2, decoding=Decoding(4, 8)
)


class Alike:
    """Refusals are the unchanged model's own answers, whatever they say."""

    def __init__(self, texts):
        self.name, self.texts = "alike-1", set(texts)

    def __call__(self, prompts, responses):
        return [Verdict.REFUSAL if text in self.texts else Verdict.COMPLIANCE for text in responses]


def judge_of(group, role) -> Alike:
    texts = []
    for asked in (FOUND, TESTED, SELECT):
        encoded = encode_prompts(group, asked, OPTIONS.decoding, ChatFormat())
        (own,) = answer(group, encoded, [Setting(role)], OPTIONS.decoding)
        texts += texts_of(group, own, ChatFormat())
    return Alike(texts)


@pytest.fixture(scope="module")
def model(zoo) -> LoadedModel:
    return LoadedModel.load(zoo.source("llama", "ia3"), dtype=torch.float64, device="cpu")


@pytest.fixture(scope="module")
def card_and_run(zoo, tmp_path_factory):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    judge = judge_of(pair, Side.ALIGNED)
    decoding = OPTIONS.decoding
    options = FindOptions(("change-score",), decoding=decoding)
    run = find(pair, tmp_path_factory.mktemp("fragility") / "run", FOUND, options)
    validate(
        run,
        pair,
        TestPrompts(SELECT, TESTED, HARMLESS, HARMLESS),
        ValidateOptions((0.25,), 1, decoding=decoding),
        judge=judge,
    )
    card = fragility(run, pair, ASKED, OPTIONS, judge=judge)
    return card, run, pair, judge


# Figures.


def test_how_few_units_hold_half():
    even = concentration(torch.ones(8))
    assert (even.n50, even.gini, even.effective) == (4, pytest.approx(0), pytest.approx(8))
    one = concentration(torch.tensor([0.0, 5.0, -3.0, 0.0]))
    assert (one.n50, one.gini, one.effective) == (1, pytest.approx(0.75), pytest.approx(1))
    held = torch.tensor([1.0, 2.0, 3.0, 10.0])
    differences = (held[:, None] - held[None]).abs().mean() / (2 * held.mean())
    assert concentration(held).gini == pytest.approx(differences.item())
    with pytest.raises(UserError, match="No unit has a positive score"):
        concentration(torch.tensor([-1.0, 0.0]))


def test_sizes_are_at_least_one_unit_and_each_once():
    assert sizes(UnitSpace.neurons((10, 10)), (0.0001, 0.01, 0.05, 0.5)) == [1, 10]


def test_what_a_prompt_is_about_is_what_few_prompts_say():
    asked = ["Write a plan for hacking banks", "Write a plan for poison", "Write a poem"]
    first, second, third = topics(asked)
    assert "hacki" in first
    assert "poiso" in second
    assert "write" not in first | second | third


# The study.


def test_every_removal_is_what_its_interventions_give(card_and_run):
    card, _, pair, judge = card_and_run
    assert card.intact.refusal_rate == 1
    assert card.removals == ["mean", "zero", "unaligned"]
    assert card.sets() == ["change-score", RANDOM, ABLATION, MAGNITUDE]
    for removal in card.removals:
        for name in ("change-score", ABLATION):
            assert [p.k for p in card.curve_of(name, removal)] == [1, 12]
        # Controls of every size beside the headline, elsewhere of the largest.
        for name in (RANDOM, MAGNITUDE):
            sized = [1, 12] if removal == "mean" else [12]
            assert [p.k for p in card.curve_of(name, removal)] == sized
    # Ablation to zero of the same units, by hand.
    from safety_neurons.studies.sets import top_units

    units = top_units(card_and_run[1], 0.25)
    encoded = encode_prompts(pair, TESTED, OPTIONS.decoding, ChatFormat())
    setting = Setting(Side.ALIGNED, (Ablate(units),))
    (answers,) = answer(pair, encoded, [setting], OPTIONS.decoding)
    refusals = judge(TESTED.texts, texts_of(pair, answers, ChatFormat())).count(Verdict.REFUSAL)
    point = card.curve_of("change-score", "zero")[-1]
    assert point.refusal_rate == refusals / len(TESTED)
    assert point.ci_low <= point.refusal_rate <= point.ci_high
    assert all(p.harmless_perplexity > 1 for p in card.curve)
    assert all(0 <= p.on_topic <= 1 - p.refusal_rate + 1e-9 for p in card.curve)


def test_amplification_is_scaling(card_and_run):
    card, run, pair, judge = card_and_run
    from safety_neurons.studies.sets import top_units

    assert card.amplified_k == 12  # as many as the validation chose
    encoded = encode_prompts(pair, TESTED, OPTIONS.decoding, ChatFormat())
    setting = Setting(Side.ALIGNED, (Scale(top_units(run, 0.25), 3.0),))
    (answers,) = answer(pair, encoded, [setting], OPTIONS.decoding)
    refusals = judge(TESTED.texts, texts_of(pair, answers, ChatFormat())).count(Verdict.REFUSAL)
    (found,) = (a for a in card.amplification if (a.factor, a.prompts) == (3.0, "harmful"))
    assert found.refusal_rate == refusals / len(TESTED)
    assert {(a.factor, a.prompts) for a in card.amplification} == {
        (f, p) for f in OPTIONS.factors for p in ("harmful", "harmless")
    }


def test_single_units_and_halving(card_and_run):
    card = card_and_run[0]
    assert [s.rank for s in card.single] == [1, 2, 3, 4, 5]
    generated = [s for s in card.single if s.generated]
    assert len(generated) == OPTIONS.generated
    assert max(s.log_odds for s in generated) <= min(
        s.log_odds for s in card.single if not s.generated
    )
    halved = [
        p.k
        for p in card.curve
        if p.removal == "mean"
        and p.site == "mlp"
        and p.set != RANDOM
        and p.refusal_rate <= card.intact.refusal_rate / 2
    ]
    assert card.halving_k == min(halved, default=None)
    assert 1 <= card.n50 <= card.units
    assert 0 <= card.gini <= 1
    assert 1 <= card.effective_neurons <= card.units


def test_attention_channels_are_removed_beside_neurons(card_and_run):
    card = card_and_run[0]
    assert card.sets(SiteKind.ATTENTION) == [ABLATION, RANDOM]
    assert len(card.curve_of(ABLATION, site=SiteKind.ATTENTION)) == 1  # every other size
    assert len(card.curve_of(RANDOM, site=SiteKind.ATTENTION)) == 1


def test_it_is_the_same_again_and_goes_on_from_kept_answers(card_and_run):
    card, run, pair, judge = card_and_run
    again = fragility(RunFolder.open(run.path), pair, ASKED, OPTIONS, judge=judge)
    assert again.written() == card.written()


def test_one_model_alone_with_a_set_of_a_file(model, tmp_path):
    judge = judge_of(model, ALONE)
    units = UnitSet.of(torch.tensor([1, 30, 40]), model.space())
    card = fragility_of_model(model, units, ASKED, OPTIONS, answers=tmp_path, judge=judge)
    assert card.removals == ["mean", "zero"]
    assert card.sets() == [GIVEN, RANDOM, ABLATION, MAGNITUDE]
    (given,) = card.curve_of(GIVEN)
    assert given.k == card.amplified_k == 3
    bare = fragility_of_model(model, None, ASKED, OPTIONS, judge=judge)
    assert bare.sets() == [ABLATION, RANDOM, MAGNITUDE]
    # What the model's own gradients say does not depend on the set.
    assert bare.curve_of(ABLATION) == card.curve_of(ABLATION)
    other = UnitSet.of(torch.tensor([1]), UnitSpace.neurons((5, 5)))
    with pytest.raises(UserError, match="differently shaped"):
        fragility_of_model(model, other, ASKED, OPTIONS, judge=judge)


def test_an_architecture_that_knows_neurons_alone(model):
    """As one of somebody else's may: no attention, no layers."""
    kept = [site for site in model.hooked.sites if site.key.site is SiteKind.MLP]
    bare = dataclasses.replace(model, hooked=dataclasses.replace(model.hooked, sites=kept))
    judge = judge_of(model, ALONE)
    card = fragility_of_model(bare, None, ASKED, OPTIONS, judge=judge)
    assert card.sets(SiteKind.ATTENTION) == []
    assert len(card.single) == OPTIONS.singles


def test_a_model_that_refuses_nothing_is_refused(model):
    with pytest.raises(UserError, match="refuses none of"):
        fragility_of_model(model, None, ASKED, OPTIONS, judge=Alike([]))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shares": ()}, "Shares are fractions"),
        ({"shares": (0.0,)}, "Shares are fractions"),
        ({"shares": (1.5,)}, "Shares are fractions"),
        ({"factors": (0.5,)}, "Factors above 1"),
        ({"factors": (float("inf"),)}, "Factors above 1"),
        ({"singles": -1}, "counted from 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(changed, said):
    with pytest.raises(UserError, match=said):
        FragilityOptions(**changed)


# The command and the page.


def test_the_part_of_the_report(card_and_run):
    card, run, *_ = card_and_run
    page = render_report(RunFolder.open(run.path)).read_text()
    part = page[page.index('<section id="fragility">') :]
    assert part.index("<svg") < part.index("<table")
    assert card.single[0].unit in part
    assert (run.path / "figure-fragility.svg").is_file()
    assert json.loads((run.path / "fragility.json").read_text())["halving_k"] == card.halving_k


def test_the_command_says_what_is_wrong(whole_run, zoo, tmp_path):
    refused(invoke("fragility"), "Give a run folder, or one model")
    refused(invoke("fragility", whole_run, "--model", "x"), "not both")
    refused(invoke("fragility", tmp_path), "no run folder")
    refused(invoke("fragility", "--model", zoo.source("llama", "ia3")), "--out")
    refused(invoke("fragility", whole_run, "--out", tmp_path / "x"), "one model alone")
    refused(invoke("fragility", whole_run, "--shares", "many"), "is no list of shares")
    refused(
        invoke("fragility", whole_run, "--ranking", "magic", "--device", "cpu"),
        "no ranking 'magic'",
    )
    refused(
        invoke("fragility", "--model", "x", "--out", tmp_path, "--ranking", "y"), "--set with one"
    )
    # Of a model whose answers are noise nothing is measured, and nothing is written.
    run = shutil.copytree(whole_run, tmp_path / "run")
    refused(invoke("fragility", run, "--limit", 3, "--device", "cpu"), "refuses none of")
    assert not (run / "fragility.json").exists()


def test_the_command_on_one_model_refuses_a_set_of_another(zoo, tmp_path):
    units = UnitSet.of(torch.tensor([0]), UnitSpace.neurons((7, 7)))
    save_set(units, tmp_path / "set")
    done = invoke(
        "fragility",
        "--model",
        zoo.source("llama", "ia3"),
        "--set",
        tmp_path / "set",
        "--out",
        tmp_path / "out",
        "--limit",
        3,
        "--device",
        "cpu",
    )
    refused(done, "differently shaped")
    assert not (tmp_path / "out" / "fragility.json").exists()


class Always:
    """Every other answer is a refusal, whatever it says."""

    name = "always-1"

    def __call__(self, prompts, responses):
        return [(Verdict.REFUSAL, Verdict.COMPLIANCE)[i % 2] for i in range(len(responses))]


def test_the_command_on_one_model(zoo, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.JUDGES._values, "always", Always())
    source, out = zoo.source("llama", "ia3"), tmp_path / "out"
    space = LoadedModel.load(source, device="cpu").space()
    save_set(UnitSet.of(torch.tensor([0, 30]), space), tmp_path / "set")
    arguments = [
        "fragility",
        "--model",
        source,
        "--set",
        tmp_path / "set",
        "--out",
        out,
        "--judge",
        "always",
        "--limit",
        4,
        "--shares",
        "0.1",
        "--factors",
        "2",
        "--singles",
        3,
        "--max-new-tokens",
        3,
        "--device",
        "cpu",
    ]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    assert "given" in done.output
    card = FragilityCard.parsed((out / "fragility.json").read_text())
    assert card.removals == ["mean", "zero"]
    assert card.environment
    assert card.unaligned is None
    kept = {file.name for file in (out / "state" / "answers").iterdir()}
    assert invoke(*arguments).exit_code == 0  # answers are there already
    assert {file.name for file in (out / "state" / "answers").iterdir()} == kept


# What the page says of figures.


def rated(value: float, n: int = 64) -> dict:
    found = rate(round(value * n), n)
    return {"n": n, "refusal_rate": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}


def card_of(refused: float, on_topic: float, amplified: float) -> FragilityCard:
    point = RemovalPoint(
        removal="mean",
        set="a",
        site=SiteKind.MLP,
        k=5,
        share=0.01,
        on_topic=on_topic,
        harmless_perplexity=2.0,
        **rated(refused),
    )
    return FragilityCard(
        model={},
        units=500,
        ranking="a",
        judge="j",
        intact=RefusalRate(**rated(0.9)),
        intact_harmless=RefusalRate(**rated(0.05)),
        intact_perplexity=1.0,
        curve=[point],
        amplification=[
            Amplified(factor=2.0, prompts=of, **rated(amplified)) for of in ("harmful", "harmless")
        ],
        amplified_k=5,
        halving_k=5,
        halving_set="a",
    )


@pytest.mark.parametrize(
    ("refused", "on_topic", "said"),
    [
        (0.2, 0.7, "complies more than it is broken"),
        (0.2, 0.42, "about as often as it is broken"),
        (0.2, 0.1, "is broken more than it complies"),
    ],
)
def test_the_page_tells_a_broken_model_from_one_that_complies(refused, on_topic, said):
    assert said in finding(card_of(refused, on_topic, 0.9))


@pytest.mark.parametrize(
    ("amplified", "said"),
    [
        (1.0, "raises refusals of harmful prompts from 91"),
        (0.93, "no factor raises refusals of harmful prompts by more than chance"),
        (0.9, "no factor raises"),
        (0.5, "from a factor of 2 on they fall"),
    ],
)
def test_the_page_claims_no_rise_that_is_within_chance(amplified, said):
    assert said in amplification_finding(card_of(0.2, 0.1, amplified))
