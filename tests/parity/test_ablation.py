"""Ablation attribution, single units and passes that begin in the middle, by plain torch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from safety_neurons.engine import (
    ALONE,
    BlockTap,
    PairedRows,
    Resumption,
    Side,
)
from safety_neurons.engine.resuming import entrance
from safety_neurons.errors import InterventionError
from safety_neurons.inference import ForcedBatch, onebyone
from safety_neurons.inference.refusal_odds import changed_log_odds
from safety_neurons.interventions import Ablate
from safety_neurons.methods.ablation import attribute_ablation, sum_activations
from safety_neurons.methods.path_attribution import DECAY
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Silent
from safety_neurons.units import SiteKind, UnitSet, UnitValues
from tests.parity.test_contrast import COMPLETIONS
from tests.tiny import (
    ARCHITECTURES,
    LAYERS,
    down_projections,
    logits_of,
    neurons_of,
    pre_hooks,
    prompts,
)

KINDS = ["ia3", "lora", None]


def alone(zoo, architecture: str, kind: str | None) -> LoadedModel:
    return LoadedModel.load(zoo.source(architecture, kind), dtype=torch.float64, device="cpu")


def plain(zoo, architecture: str, kind: str | None):
    return zoo.model(zoo.source(architecture, kind))


def means_of(model: LoadedModel) -> UnitValues:
    space = model.space()
    drawn = torch.randn(space.total, generator=torch.Generator().manual_seed(3))
    return UnitValues(drawn, space, "drawn")


def held_units(means: UnitValues, units: list[int]) -> list[Ablate]:
    """An intervention for each unit alone."""
    return [Ablate(UnitSet.of(torch.tensor([unit]), means.space), means) for unit in units]


def likelihoods(model, prompt, completion) -> torch.Tensor:
    """Of each completion token, in nats."""
    logits = logits_of(model, [*prompt, *completion[:-1]])[len(prompt) - 1 :]
    chosen = logits.log_softmax(-1)[torch.arange(len(completion)), torch.tensor(completion)]
    return chosen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_activations_leave_the_first_token_and_padding_out(zoo, architecture, kind):
    model = alone(zoo, architecture, kind)
    sums = sum_activations(model, ALONE, prompts(), COMPLETIONS, model.space())
    taken = [
        torch.cat(neurons_of(plain(zoo, architecture, kind), architecture, [*p, *c[:-1]]), -1)[1:]
        for p, c in zip(prompts(), COMPLETIONS, strict=True)
    ]
    every = torch.cat(taken)
    torch.testing.assert_close(sums.mean, every.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sums.magnitude, every.square().mean(0).sqrt(), rtol=1e-9, atol=1e-9)
    assert sums.positions == len(every)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_ablation_attribution_is_the_gradient_times_the_way_to_the_mean(zoo, architecture, kind):
    model, reference = alone(zoo, architecture, kind), plain(zoo, architecture, kind)
    means = means_of(model)
    found = attribute_ablation(model, ALONE, prompts(), COMPLETIONS, means)
    expected = torch.zeros(means.space.total, dtype=torch.float64)
    for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
        taken = {}

        def keep(layer, x, taken=taken):
            taken[layer] = x.detach().requires_grad_()
            return taken[layer] + (x - x.detach())

        with pre_hooks(down_projections(reference, architecture), keep), torch.enable_grad():
            nats = likelihoods(reference, prompt, completion)
            weights = DECAY ** torch.arange(len(completion), dtype=torch.float64)
            mean = (nats * weights).sum() / weights.sum()
            gradients = torch.autograd.grad(mean, [taken[i] for i in range(LAYERS)])
        values = torch.cat([taken[i][0] for i in range(LAYERS)], -1).detach()
        slopes = torch.cat([gradient[0] for gradient in gradients], -1)
        expected += ((values - means.values.double()) * slopes).sum(0)
    assert found.prompts == len(COMPLETIONS)
    torch.testing.assert_close(found.attribution, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_single_effects_are_those_of_whole_passes(zoo, architecture, kind):
    model, reference = alone(zoo, architecture, kind), plain(zoo, architecture, kind)
    means = means_of(model)
    width = means.space.widths[0]
    units = [width + 1, 2, 5, 2 * width - 1]
    held = held_units(means, units)
    found = changed_log_odds(model, ALONE, prompts(), COMPLETIONS, held, Silent())
    assert found.shape == (len(units), len(COMPLETIONS))

    def log_odds(prompt, completion) -> torch.Tensor:
        mean = likelihoods(reference, prompt, completion).mean()
        return mean - torch.log1p(-mean.exp())

    for row, unit in zip(found, units, strict=True):
        at, column = divmod(unit, width)

        def hold(layer, x, at=at, column=column, unit=unit):
            if layer != at:
                return None
            x = x.clone()
            x[..., column] = means.values[unit].double()
            return x

        for value, prompt, completion in zip(row, prompts(), COMPLETIONS, strict=True):
            before = log_odds(prompt, completion)
            with pre_hooks(down_projections(reference, architecture), hold), torch.no_grad():
                after = log_odds(prompt, completion)
            assert value.item() == pytest.approx((after - before).item(), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_pass_begun_in_the_middle_gives_the_same_logits(zoo, architecture, kind):
    model = alone(zoo, architecture, kind)
    batch = ForcedBatch.of(prompts(), COMPLETIONS, model)
    counts, last = {ALONE: len(batch)}, LAYERS - 1
    tap = BlockTap([entrance(last)])
    with PairedRows(model, counts, edits=[tap]) as rows:
        whole = rows.forward({ALONE: batch.tokens}, logits=5)[ALONE]
    resumed = Resumption(last, tap.taken[entrance(last)])
    with PairedRows(model, counts, resumed=resumed) as rows:
        begun = rows.forward({ALONE: batch.tokens}, logits=5)[ALONE]
    read = batch.scored
    torch.testing.assert_close(begun[read], whole[read], rtol=1e-12, atol=1e-12)
    with PairedRows(model, counts) as rows:  # all layers run again afterwards
        again = rows.forward({ALONE: batch.tokens}, logits=5)[ALONE]
    torch.testing.assert_close(again, whole, rtol=0, atol=0)


def test_layers_run_again_after_an_exception(zoo):
    model = alone(zoo, "llama", "lora")
    layers = [s.module for s in model.hooked.sites if s.key.site is SiteKind.RESIDUAL]
    resumed = Resumption(1, torch.zeros(1, 3, 16, dtype=torch.float64))

    def fail() -> None:
        with PairedRows(model, {ALONE: 1}, resumed=resumed):
            assert "forward" in layers[0].__dict__
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any("forward" in layer.__dict__ for layer in layers)


def test_what_cannot_begin_in_the_middle_is_said(zoo):
    model = alone(zoo, "llama", None)
    short = Resumption(1, torch.zeros(1, 2, 16, dtype=torch.float64))
    batch = ForcedBatch.of(prompts(), COMPLETIONS, model)
    with (
        PairedRows(model, {ALONE: len(batch)}, resumed=short) as rows,
        pytest.raises(InterventionError, match="was to go on"),
    ):
        rows.forward({ALONE: batch.tokens})
    with pytest.raises(ValueError, match="no cache"):
        PairedRows(model, {ALONE: 3}, resumed=short, cached=True)
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    with pytest.raises(ValueError, match="one role"):
        PairedRows(pair, dict.fromkeys(Side, 3), resumed=short)


def test_an_architecture_whose_layers_give_more_than_they_get_is_refused(zoo, monkeypatch):
    """Passed over, such a layer would give something else than the model reads."""
    model = alone(zoo, "llama", None)
    monkeypatch.setattr(onebyone, "SINGLE", -1.0)
    held = held_units(means_of(model), [30])
    with pytest.raises(InterventionError, match="passed over"):
        changed_log_odds(model, ALONE, prompts(), COMPLETIONS, held, Silent())


def test_an_architecture_that_names_no_layers_is_read_whole(zoo):
    """One of somebody else's may say where its neurons are, and no more."""
    whole, bare = alone(zoo, "llama", "lora"), alone(zoo, "llama", "lora")
    kept = [site for site in bare.hooked.sites if site.key.site is not SiteKind.RESIDUAL]
    bare = dataclasses.replace(bare, hooked=dataclasses.replace(bare.hooked, sites=kept))
    held = held_units(means_of(whole), [1, 30])
    both = [
        changed_log_odds(of, ALONE, prompts(), COMPLETIONS, held, Silent()) for of in (whole, bare)
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-9, atol=1e-12)
