"""Interventions as values: one after the other, side by side in a batch, and on one model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from safety_neurons.engine import ALONE, PairedRows, Side
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference import (
    Decoding,
    Setting,
    answer,
    decode,
    left_padded,
    log_likelihoods,
    perplexities,
)
from safety_neurons.interventions import Intervention, InterventionEdit, Patch
from safety_neurons.models import LoadedModel
from safety_neurons.storage import digest
from safety_neurons.units import SiteKind, UnitSet, UnitSpace
from tests.parity.test_contrast import COMPLETIONS, mean_log_likelihood
from tests.parity.test_patching import columns_of, greedy, some_neurons
from tests.tiny import (
    ARCHITECTURES,
    EOS,
    decode_patched,
    down_projections,
    logits_of,
    neurons_of,
    pre_hooks,
    prompts,
)

A, U = Side.ALIGNED, Side.UNALIGNED
STEPS = 6


@dataclass(frozen=True)
class Scale(Intervention):
    """Units times a factor: 0 ablates them."""

    units: UnitSet
    factor: float

    @property
    def key(self) -> str:
        return digest("scale", self.units.key, self.factor)

    def act(self, block, columns, own, donated):
        return self.factor * own


@dataclass(frozen=True)
class Narrow(Scale):
    """Gives activations of fewer units than it was asked for."""

    def act(self, block, columns, own, donated):
        return own[..., :-1]


def alone(zoo, architecture: str, kind: str | None = None) -> LoadedModel:
    source = zoo.source(architecture, kind)
    return LoadedModel.load(source, dtype=torch.float64, device="cpu")


def scaled(model, architecture: str, prompt: list[int], *steps) -> list[int]:
    """Greedy tokens with neurons scaled by plain hooks, one step after the other.

    Args:
        steps: columns by layer and a factor, or columns and the donor whose values are copied.
    """
    tokens = list(prompt)
    while len(tokens) - len(prompt) < STEPS and tokens[-1] != EOS:
        values = [
            None if isinstance(what, float) else neurons_of(what, architecture, tokens)
            for _, what in steps
        ]

        def edit(layer, x, values=values):
            x = x.clone()
            for (columns, what), copied in zip(steps, values, strict=True):
                chosen = columns.get(layer, [])
                x[..., chosen] = (
                    x[..., chosen] * what if copied is None else copied[layer][:, chosen]
                )
            return x

        with pre_hooks(down_projections(model, architecture), edit), torch.no_grad():
            tokens.append(int(logits_of(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


# One model.


@pytest.mark.parametrize("kind", [None, "ia3", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_alone_answers_as_it_does(zoo, architecture, kind):
    model = alone(zoo, architecture, kind)
    plain = zoo.model(zoo.source(architecture, kind))
    with torch.no_grad():
        expected = [greedy(plain, prompt)[0] for prompt in prompts()]
    assert decode(model, prompts(), [Setting()], max_new_tokens=STEPS) == [expected]


@pytest.mark.parametrize("kind", [None, "ia3"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_alone_under_interventions(zoo, architecture, kind):
    model = alone(zoo, architecture, kind)
    plain = zoo.model(zoo.source(architecture, kind))
    one, other = some_neurons(model, 0.5), some_neurons(model, 0.4, seed=1)
    settings = [
        Setting(interventions=(Scale(one, 0.0),)),
        Setting(interventions=(Scale(one, 2.0), Scale(other, -1.0))),
        Setting(),
    ]
    columns, others = columns_of(one), columns_of(other)
    expected = [
        [scaled(plain, architecture, prompt, *steps) for prompt in prompts()]
        for steps in ([(columns, 0.0)], [(columns, 2.0), (others, -1.0)], [])
    ]
    assert decode(model, prompts(), settings, max_new_tokens=STEPS) == expected
    assert len({str(of_setting) for of_setting in expected}) == 3


@torch.no_grad()
def test_likelihoods_and_perplexities_of_a_model_alone(zoo):
    model, plain = alone(zoo, "llama", "lora"), zoo.model(zoo.source("llama", "lora"))
    nats = [
        mean_log_likelihood(logits_of(plain, [*p, *c[:-1]]), p, c) * len(c)
        for p, c in zip(prompts(), COMPLETIONS, strict=True)
    ]
    found, _ = log_likelihoods(model, ALONE, prompts(), [[c] for c in COMPLETIONS])
    assert found[:, 0].tolist() == pytest.approx(list(map(float, nats)), abs=1e-9)
    ablated = Setting(interventions=(Scale(some_neurons(model), 0.0),))
    settings = {"plain": Setting(), "ablated": ablated}
    both = perplexities(model, prompts(), COMPLETIONS, settings, Decoding())
    tokens = sum(map(len, COMPLETIONS))
    assert both["plain"] == pytest.approx(float(torch.exp(-sum(nats) / tokens)), rel=1e-9)
    assert both["ablated"] != pytest.approx(both["plain"], rel=1e-3)


def test_a_patch_needs_two_models(zoo):
    model = alone(zoo, "llama")
    setting = Setting(interventions=(Patch(some_neurons(model)),))
    with pytest.raises(UserError, match=r"'patch' reads another model's .*; load a pair"):
        decode(model, prompts(), [setting], max_new_tokens=1)


# Two models.


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_interventions_act_one_after_the_other(zoo, architecture, separate):
    """Also where their units are the same: the later one sees what the earlier one left."""
    other = zoo.copy(architecture) if separate else zoo.base(architecture)
    adapted = zoo.source(architecture, "ia3")
    pair = zoo.pair(adapted, str(other))
    donor, recipient = zoo.model(adapted), zoo.model(str(other))
    one, two = some_neurons(pair, 0.5), some_neurons(pair, 0.5, seed=1)
    columns, others = columns_of(one), columns_of(two)
    settings = [
        Setting(U, (Patch(one), Scale(two, 0.5))),
        Setting(U, (Scale(two, 0.5), Patch(one))),
        Setting(U, (Scale(one, 0.0),)),
        Setting(U),
    ]
    steps = [
        [(columns, donor), (others, 0.5)],
        [(others, 0.5), (columns, donor)],
        [(columns, 0.0)],
        [],
    ]
    expected = [[scaled(recipient, architecture, p, *each) for p in prompts()] for each in steps]
    assert decode(pair, prompts(), settings, max_new_tokens=STEPS) == expected


def test_settings_go_through_answer_whatever_their_interventions(zoo, tmp_path):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", "lora"))
    one, two = some_neurons(pair, 0.5), some_neurons(pair, 0.5, seed=1)
    settings = [
        Setting(U, (Patch(one),)),
        Setting(U, (Scale(one, 0.0),)),
        Setting(A, (Scale(two, 0.0), Patch(one, 0.5))),
        Setting(A),
    ]
    decoding = Decoding(4, 2)
    alone = [answer(pair, prompts(), [setting], decoding)[0] for setting in settings]
    logs = [tmp_path / str(i) for i in range(4)]
    assert answer(pair, prompts(), settings, decoding, logs=logs) == alone
    assert len({setting.key for setting in settings}) == 4


def test_a_setting_without_donor_does_not_run_it(zoo, monkeypatch):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", "lora"))
    ran = []
    forward = PairedRows.forward

    def watched(self, tokens, **options):
        ran.append(set(tokens))
        return forward(self, tokens, **options)

    monkeypatch.setattr(PairedRows, "forward", watched)
    setting = Setting(U, (Scale(some_neurons(pair), 0.0),))
    decode(pair, prompts(), [setting], max_new_tokens=2)
    assert ran
    assert all(roles == {U} for roles in ran)


# What must not pass unnoticed.


def test_units_of_other_models_are_refused(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    other = UnitSet.all(UnitSpace.neurons((24, 24, 24)))
    with pytest.raises(UserError, match="differently shaped model"):
        decode_patched(pair, prompts(), U, [other], max_new_tokens=1)
    settings = {"p": Setting(U, (Patch(other),))}
    with pytest.raises(UserError, match="differently shaped model"):
        perplexities(pair, prompts(), COMPLETIONS, settings, Decoding())


def test_activations_of_another_shape_are_refused(zoo):
    model = alone(zoo, "llama")
    setting = Setting(interventions=(Narrow(some_neurons(model), 1.0),))
    with pytest.raises(InterventionError, match=r"gave activations of shape .* in layer 0"):
        decode(model, prompts(), [setting], max_new_tokens=1)


def test_a_block_in_which_nothing_was_done_is_named(zoo):
    """Whatever the intervention: the edit never ran, so the pass counts for nothing."""
    model = alone(zoo, "llama")
    edit = InterventionEdit([Scale(UnitSet.all(model.space(SiteKind.ATTENTION)), 1.0)], ALONE)
    with pytest.raises(InterventionError, match=r"Nothing was done in layer 0 \(attention\)"):
        edit.end_pass()
    with PairedRows(model, {ALONE: 3}, edits=[edit]) as rows:
        rows.forward({ALONE: left_padded(prompts(), model)})


def test_what_has_no_weights_says_so(zoo):
    model = alone(zoo, "llama")
    for intervention in (Patch(some_neurons(model)), Scale(some_neurons(model), 2.0)):
        with pytest.raises(UserError, match="has no weights"):
            intervention.export(model.hooked)


def test_keys_tell_interventions_apart(zoo):
    model = alone(zoo, "llama")
    one, two = some_neurons(model), some_neurons(model, seed=1)
    keys = [
        Patch(one).key,
        Patch(two).key,
        Patch(one, 0.5).key,
        Scale(one, 0.5).key,
        Scale(one, 1.0).key,
    ]
    assert len(set(keys)) == 5
    assert Patch(one, 1).key == Patch(UnitSet.of(one.flat, one.space, ranking="x")).key
