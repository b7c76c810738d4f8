"""Mediation, reading at places and directions, by plain torch and one prompt at a time."""

from __future__ import annotations

import pytest
import torch

from safety_neurons.engine import ALONE, Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting
from safety_neurons.inference.reading import read_at
from safety_neurons.interventions import AblateDirection, Patch, intervene
from safety_neurons.methods.direction import Directions, cosines
from safety_neurons.methods.mediation import Targets, exact, first_order
from safety_neurons.methods.moments import Moments
from safety_neurons.methods.steering import DirectEffects
from safety_neurons.models import LoadedModel
from safety_neurons.units import SiteKind, UnitSet, UnitValues
from tests.tiny import (
    ARCHITECTURES,
    LAYERS,
    PARTS,
    down_projections,
    logits_of,
    neurons_of,
    overwritten_logits,
    pre_hooks,
    prompts,
)

KINDS = ["ia3", "lora"]
DECODING = Decoding(1, 2)


def alone(zoo, architecture: str, kind: str | None) -> LoadedModel:
    return LoadedModel.load(zoo.source(architecture, kind), dtype=torch.float64, device="cpu")


def layers_of(model, architecture: str):
    return [model.get_submodule(PARTS[architecture]["layer"].format(i)) for i in range(LAYERS)]


def drawn(shape, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets_of(model: LoadedModel, position: int = -2) -> Targets:
    """Both streams, and every third unit of both layers."""
    space = model.space()
    later = drawn(space.total, 5) * (torch.arange(space.total) % 3 == 0)
    width = model.space(SiteKind.RESIDUAL).widths[0]
    return Targets(dict(enumerate(drawn((LAYERS, width), 4))), position, later)


def seen_by_hand(model, architecture, prompt, held=None):
    """What enters each layer, and the neurons, perhaps with a neuron moved: `(layer, column, way,
    mean)` replaces x by x + way (mean - x)."""
    streams: dict[int, torch.Tensor] = {}
    neurons: dict[int, torch.Tensor] = {}

    def edit(layer: int, x: torch.Tensor) -> torch.Tensor | None:
        if held is None or held[0] != layer:
            neurons[layer] = x[0]
            return None
        _, column, way, mean = held
        x = x.clone()
        x[..., column] += way * (mean - x[..., column])
        neurons[layer] = x[0]
        return x

    with (
        torch.no_grad(),
        pre_hooks(layers_of(model, architecture), lambda i, x: streams.__setitem__(i, x[0])),
        pre_hooks(down_projections(model, architecture), edit),
    ):
        logits_of(model, prompt)
    return streams, neurons


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_first_order_mediation_is_what_a_small_step_to_the_mean_takes(zoo, architecture, kind):
    model, plain = alone(zoo, architecture, kind), zoo.model(zoo.source(architecture, kind))
    space = model.space()
    means = UnitValues(drawn(space.total).float(), space, "drawn")
    targets = targets_of(model)
    found = first_order(model, ALONE, prompts(), targets, means)
    # RMS norms are computed in float32 whatever the model is: smaller steps would be rounding.
    exactly = architecture in ("gpt2", "gpt_neox")
    step, width = 1e-4 if exactly else 2e-3, space.widths[0]
    close = {"rel": 1e-6, "abs": 1e-7} if exactly else {"rel": 2e-2, "abs": 2e-3}
    for column in (0, 3, width - 1):
        mean = float(means.values[column])
        for of, figure in (
            (found.direction, lambda s, n: s[1][-2] @ targets.streams[1]),
            (found.later, lambda s, n: n[1][-2] @ targets.later[width:]),
        ):
            ends = [
                [
                    figure(*seen_by_hand(plain, architecture, prompt, (0, column, way, mean)))
                    for way in (-step, step)
                ]
                for prompt in prompts()
            ]
            lost = [(before - after) / (2 * step) for before, after in ends]
            expected = torch.stack(lost)
            assert float(of.total[column]) == pytest.approx(float(expected.sum()), **close)
            squares = float(expected.square().sum())
            assert float(of.squares[column]) == pytest.approx(squares, **close)
    assert not found.direction.total[width:].any()  # nothing behind the last layer
    assert not found.later.total[width:].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_mediation_is_what_holding_one_unit_takes(zoo, architecture, kind):
    model, plain = alone(zoo, architecture, kind), zoo.model(zoo.source(architecture, kind))
    space = model.space()
    means = UnitValues(drawn(space.total).float(), space, "drawn")
    targets = targets_of(model, -1)
    units = [7, 0, 2]
    found = exact(model, ALONE, prompts(), units, targets, means)
    for row, column in enumerate(units):
        held = (0, column, 1.0, float(means.values[column]))
        for place, prompt in enumerate(prompts()):
            before = seen_by_hand(plain, architecture, prompt)[0][1][-1] @ targets.streams[1]
            after = seen_by_hand(plain, architecture, prompt, held)[0][1][-1] @ targets.streams[1]
            assert float(found[row, place]) == pytest.approx(float(before - after), abs=1e-9)


def test_mediation_does_not_depend_on_batches(zoo):
    model = alone(zoo, "llama", "ia3")
    space, targets = model.space(), targets_of(model, -1)
    means = UnitValues(drawn(space.total).float(), space, "drawn")
    whole = first_order(model, ALONE, prompts(), targets, means)
    parts = first_order(model, ALONE, prompts()[:1], targets, means)
    parts += first_order(model, ALONE, prompts()[1:], targets, means)
    torch.testing.assert_close(parts.direction.mean, whole.direction.mean, rtol=0, atol=1e-9)
    assert parts.direction.prompts == 3


def test_moments_are_a_mean_and_its_normal_interval():
    values = drawn((9, 4))
    found = Moments.of(values[:4]) + Moments.of(values[4:])
    torch.testing.assert_close(found.mean, values.mean(0))
    half = 1.959963984540054 * values.std(0) / 3
    torch.testing.assert_close(found.half_width, half)


# Reading at places.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reading_gives_means_over_places(zoo, architecture):
    model, plain = alone(zoo, architecture, "ia3"), zoo.model(zoo.source(architecture, "ia3"))
    space = model.space(SiteKind.MLP, SiteKind.RESIDUAL)
    places = [[[0, 1], [-1], [len(p) - 1]] for p in prompts()]
    read = read_at(model, prompts(), places, space, Setting(), DECODING, first=[5, 9])
    for row, prompt in enumerate(prompts()):
        streams, neurons = seen_by_hand(plain, architecture, prompt)
        for key in space.keys:
            of = neurons if key.site is SiteKind.MLP else streams
            x = of[key.layer]
            expected = torch.stack([x[:2].mean(0), x[-1], x[-1]]).float()
            got = read.units[row, :, space.slice_of(key)]
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            chance = logits_of(plain, prompt)[-1].softmax(-1)[[5, 9]].sum()
        assert float(read.first[row]) == pytest.approx(float(chance), abs=1e-6)


@pytest.mark.parametrize("separate", [False, True])
def test_reading_under_a_patch_sees_what_was_patched(zoo, separate):
    aligned = zoo.source("llama", "ia3")
    other = str(zoo.copy("llama")) if separate else zoo.source("llama", None)
    pair = zoo.pair(aligned, other)
    units = UnitSet.of(torch.tensor([1, 5, 30]), pair.space())
    setting = Setting(Side.UNALIGNED, (Patch(units),))
    places = [[[-1]]] * 3
    read = read_at(pair, prompts(), places, pair.space(), setting, DECODING, first=[5])
    donor, recipient = zoo.model(aligned), zoo.model(zoo.source("llama", None))
    width = pair.space().widths[0]
    columns = {0: [1, 5], 1: [30 - width]}
    for row, prompt in enumerate(prompts()):
        values = neurons_of(donor, "llama", prompt)
        logits = overwritten_logits(recipient, "llama", prompt, columns, values)
        chance = logits[-1].softmax(-1)[5]
        assert float(read.first[row]) == pytest.approx(float(chance), abs=1e-6)
        flat = torch.cat([v[-1] for v in values]).float()
        torch.testing.assert_close(read.units[row, 0, units.flat], flat[units.flat])


# Directions.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_direction_is_taken_out_wherever_a_layer_reads(zoo, architecture):
    model, loaded = zoo.model(zoo.source(architecture, None)), alone(zoo, architecture, None)
    space = loaded.space(SiteKind.RESIDUAL)
    vector = drawn(space.widths[0]).float()
    unit = vector.double() / vector.double().norm()
    removal = AblateDirection.everywhere(vector, space)
    prompt = prompts()[0]
    with (
        torch.no_grad(),
        pre_hooks(layers_of(model, architecture), lambda _, x: x - (x @ unit)[..., None] * unit),
    ):
        expected = logits_of(model, prompt)
    with torch.no_grad():
        plain = logits_of(model, prompt)
        with intervene(model, removal):
            torch.testing.assert_close(logits_of(model, prompt), expected, rtol=0, atol=1e-9)
    assert (plain - expected).abs().max() > 1e-3
    again = AblateDirection.everywhere(vector, space, "another name")
    assert removal.key == again.key != AblateDirection.everywhere(-2 * vector + 1, space).key


def test_directions_that_cannot_be_taken_out_are_refused(zoo):
    space = alone(zoo, "llama", None).space(SiteKind.RESIDUAL)
    with pytest.raises(UserError, match="zero"):
        AblateDirection.everywhere(torch.zeros(16), space)
    with pytest.raises(UserError, match="15 numbers"):
        AblateDirection.everywhere(torch.ones(15), space)
    with pytest.raises(UserError, match="finite"):
        AblateDirection.everywhere(torch.full((16,), torch.nan), space)
    with pytest.raises(UserError, match="the same"):
        Directions.between(torch.ones(3, 2, 4), torch.ones(5, 2, 4))


def test_the_way_along_a_direction():
    harmful, harmless = drawn((6, 2, 4), 1), drawn((5, 2, 4), 2)
    harmless[:, 0] = harmful[0, 0]  # where all are alike there is no direction
    harmful[:, 0] = harmful[0, 0]
    of = Directions.between(harmful, harmless)
    assert of.way(harmless)[:, 1].mean().item() == pytest.approx(0, abs=1e-12)
    assert of.way(harmful)[:, 1].mean().item() == pytest.approx(1)
    assert not of.way(harmful)[:, 0].any()
    assert not of.unit[0].any()
    middle = (harmful[:, 1].mean(0) + harmless[:, 1].mean(0)) / 2
    assert of.way(middle.expand(1, 2, 4))[0, 1].item() == pytest.approx(0.5)
    one = cosines(of.difference, -3 * of.difference)
    torch.testing.assert_close(one, torch.tensor([0.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_what_units_write_along_a_direction(zoo, architecture):
    """All units of a layer and its bias write what the layer's MLP gives."""
    model, plain = alone(zoo, architecture, "ia3"), zoo.model(zoo.source(architecture, "ia3"))
    vector = drawn(plain.config.hidden_size)
    found = DirectEffects(model, ALONE).on_direction(prompts(), vector, -1)
    width = model.space().widths[0]
    for layer, down in enumerate(down_projections(plain, architecture)):
        for row, prompt in enumerate(prompts()):
            given: list[torch.Tensor] = []
            handle = down.register_forward_hook(lambda _, __, y, given=given: given.append(y[0]))
            with torch.no_grad():
                logits_of(plain, prompt)
            handle.remove()
            bias = getattr(down, "bias", None)
            written = given[0][-1] - (0 if bias is None else bias)
            said = found[row, layer * width : (layer + 1) * width].sum()
            assert float(said) == pytest.approx(float(written @ vector), abs=1e-9)
