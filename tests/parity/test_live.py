"""Interventions on live models, PEFT's own among them, against merged weights and plain hooks."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from safety_neurons.engine import Side
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference import Setting, decode
from safety_neurons.interventions import Ablate, Patch, PatchMeans, Scale, Steer, intervene
from safety_neurons.models import LoadedModel
from safety_neurons.units import SiteKind, UnitSet, UnitSpace, UnitValues
from tests.parity.test_patching import columns_of, some_neurons
from tests.tiny import ARCHITECTURES, PARTS, down_projections, pre_hooks, prompts

TOKENS = torch.tensor([[1, 9, 23, 40, 11], [1, 30, 8, 17, 52]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def loaded(zoo, architecture: str) -> LoadedModel:
    return LoadedModel.load(zoo.source(architecture, None), dtype=torch.float64, device="cpu")


def edited(model, architecture: str, columns, change) -> torch.Tensor:
    """Logits with a plain hook that applies `change` to chosen coordinates of each site."""

    def edit(layer, x):
        x = x.clone()
        chosen = columns.get(layer, [])
        x[..., chosen] = change(layer, x[..., chosen])
        return x

    with pre_hooks(down_projections(model, architecture), edit):
        return logits(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_against_plain_hooks(zoo, architecture):
    model = zoo.model(zoo.source(architecture, None))
    alone = loaded(zoo, architecture)
    space, units, more = alone.space(), some_neurons(alone, 0.4), some_neurons(alone, 0.3, seed=1)
    plain = logits(model)
    values = UnitValues(torch.linspace(-1, 1, space.total), space, "line")
    for one, change in (
        (Ablate(units), lambda _, x: 0 * x),
        (Scale(units, -1.5), lambda _, x: -1.5 * x),
    ):
        with intervene(model, one):
            live = logits(model)
        torch.testing.assert_close(
            live, edited(model, architecture, columns_of(units), change), rtol=0, atol=1e-9
        )
        assert (live - plain).abs().max() > 1e-3
    columns = columns_of(units)
    held = {
        layer: values.of(space.keys[layer])[chosen].double() for layer, chosen in columns.items()
    }
    expected = edited(model, architecture, columns, lambda layer, x: held[layer].expand_as(x))
    for kind in (Ablate, PatchMeans):
        with intervene(model, kind(units, values)):
            torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-9)
    with intervene(model, Scale(units, 2.0), Ablate(more)):
        both = logits(model)
    with intervene(model, Ablate(more), Scale(units, 2.0)):
        torch.testing.assert_close(logits(model), both, rtol=0, atol=1e-9)  # 2 times 0 is 0
    assert torch.equal(logits(model), plain)


def fresh(zoo):
    """A model of its own, whose weights and modules may be changed."""
    return AutoModelForCausalLM.from_pretrained(zoo.base("llama"), dtype=torch.float64)


def wrapped(zoo, *kinds: str):
    """A llama whose down projections PEFT wraps, one adapter around the other, all acting."""
    configs = {
        "lora": LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False),
        "ia3": IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
    }
    model = fresh(zoo)
    for kind in kinds:
        model = get_peft_model(model, configs[kind])
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "ia3_l" in name:
            drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = drawn + 0.5
    return model.eval()


def merged(peft, zoo):
    """A plain llama with the weights of `peft`, merged by hand: (W + sBA) times the scales."""
    plain, held = fresh(zoo), dict(peft.named_parameters())
    for layer, block in enumerate(plain.model.layers):
        own = {n: p.detach() for n, p in held.items() if f".{layer}.mlp.down_proj." in n}
        weight = block.mlp.down_proj.weight.data
        for name, down in own.items():
            if "lora_A" in name:
                weight += 8 / 2 * own[name.replace("lora_A", "lora_B")] @ down  # alpha / r
        for name, scale in own.items():
            if "ia3_l" in name:
                weight *= scale.flatten()
    return plain


@pytest.mark.parametrize("kinds", [("lora",), ("ia3",), ("lora", "ia3")], ids="-".join)
def test_adapters_at_the_projection_itself_against_merged_weights(zoo, kinds):
    """An (IA)³ scale is in the merged weights: there a neuron is held at its value without it."""
    peft = wrapped(zoo, *kinds)
    units = some_neurons(loaded(zoo, "llama"), 0.4)
    columns, space = columns_of(units), units.space
    plain = logits(peft)
    by_hand = merged(peft, zoo)
    torch.testing.assert_close(logits(by_hand), plain, rtol=0, atol=1e-9)
    scales = {layer: torch.ones(space.blocks[layer].width).double() for layer in columns}
    for name, parameter in peft.named_parameters():
        if "ia3_l" in name:
            layer = int(name.split(".layers.")[1].split(".")[0])
            scales[layer] = parameter.detach().flatten()
    values = UnitValues(torch.linspace(-1, 1, space.total), space, "line")
    held = {
        layer: (values.of(space.keys[layer]).double() / scales[layer])[chosen]
        for layer, chosen in columns.items()
    }
    for one, change in (
        (Scale(units, 2.5), lambda _, x: 2.5 * x),
        (Ablate(units), lambda _, x: 0 * x),
        (Ablate(units, values), lambda layer, x: held[layer].expand_as(x)),
    ):
        with intervene(peft, one):
            live = logits(peft)
        expected = edited(by_hand, "llama", columns, change)
        torch.testing.assert_close(live, expected, rtol=0, atol=1e-9)
        assert (live - plain).abs().max() > 1e-3
    assert torch.equal(logits(peft), plain)


def test_a_lora_outside_of_a_scaling_is_refused(zoo):
    peft = wrapped(zoo, "ia3", "lora")
    units = some_neurons(loaded(zoo, "llama"), 0.4)
    with pytest.raises(UserError, match="no one activation"), intervene(peft, Ablate(units)):
        pass


def test_generation_is_under_the_intervention_at_every_step(zoo):
    model = zoo.model(zoo.source("llama", None))
    units = some_neurons(loaded(zoo, "llama"), 0.4)
    with intervene(model, Scale(units, -2.0)):
        cached = model.generate(TOKENS, max_new_tokens=6, do_sample=False, use_cache=True)
    tokens = TOKENS
    for _ in range(cached.shape[1] - TOKENS.shape[1]):
        with intervene(model, Scale(units, -2.0)), torch.no_grad():
            step = model(input_ids=tokens).logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, step], dim=1)
    first = (cached[:, TOKENS.shape[1] :] == 2).float().cumsum(1) <= 0  # up to an end token
    assert torch.equal(cached[:, TOKENS.shape[1] :][first], tokens[:, TOKENS.shape[1] :][first])


def test_gradients_flow_through_a_scaling_and_not_past_an_ablation(zoo):
    model = zoo.model(zoo.source("llama", None))
    units = some_neurons(loaded(zoo, "llama"), 0.4)
    weight = model.model.layers[0].mlp.up_proj.weight.requires_grad_()
    rows = columns_of(units)[0]
    for one, flows in ((Scale(units, 2.0), True), (Ablate(units), False)):
        weight.grad = None
        with intervene(model, one):
            model(input_ids=TOKENS).logits.square().sum().backward()
        assert bool(weight.grad[rows].abs().sum() > 0) is flows
    model.requires_grad_(False)


def test_hooks_go_whatever_happens_and_what_did_not_act_is_an_error(zoo):
    model = zoo.model(zoo.source("llama", None))
    units = some_neurons(loaded(zoo, "llama"), 0.4)
    plain = logits(model)
    with pytest.raises(ZeroDivisionError), intervene(model, Ablate(units)):
        1 / 0  # noqa: B018
    assert torch.equal(logits(model), plain)
    with pytest.raises(InterventionError, match="Nothing ran"), intervene(model, Ablate(units)):
        pass
    layer = model.model.layers[0].mlp

    def past_the_other_layers() -> None:
        with intervene(model, Ablate(units)):
            logits(model)
            layer(torch.zeros(1, 2, model.config.hidden_size, dtype=model.dtype))

    with pytest.raises(InterventionError, match="where others ran"):
        past_the_other_layers()
    assert torch.equal(logits(model), plain)


def test_what_cannot_act_is_refused_before_anything_runs(zoo):
    model = zoo.model(zoo.source("llama", None))
    alone = loaded(zoo, "llama")
    units = some_neurons(alone, 0.4)
    other = UnitSet.all(UnitSpace(alone.space().blocks[:1]))
    values = UnitValues.at(units, torch.ones(len(units)), "ones")
    refused = {
        "one model": lambda: [Patch(units)],
        "differently shaped model; make": lambda: [Ablate(other)],
        "finite number": lambda: [Scale(units, float("nan"))],
        "no finite value": lambda: [Ablate(UnitSet.all(units.space), values)],
        "differently shaped model than": lambda: [Ablate(other, values)],
        "needs them": lambda: [PatchMeans(units)],
    }
    for said, made in refused.items():
        with pytest.raises(UserError, match=said), intervene(model, *made()):
            pass
    assert values.known(units)
    assert values.key == UnitValues.at(units, torch.ones(len(units)), "again").key


@pytest.mark.parametrize("kind", [None, "ia3", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exported_weights_do_the_same_without_hooks(zoo, architecture, kind):
    """In place: on the base weights, and on a LoRA's first matrix."""
    source = zoo.source(architecture, kind)
    alone = LoadedModel.load(source, dtype=torch.float64, device="cpu")
    units = some_neurons(alone, 0.4)
    settings = [Setting(interventions=(one,)) for one in (Scale(units, 2.5), Ablate(units))]
    before = {name: tensor.clone() for name, tensor in alone.hooked.model.state_dict().items()}
    asked = prompts()
    live = decode(alone, asked, settings, max_new_tokens=6)
    for setting, expected in zip(settings, live, strict=True):
        (one,) = setting.interventions
        alone.hooked.model.load_state_dict(one.export(alone.hooked), strict=False)
        assert decode(alone, asked, [Setting()], max_new_tokens=6) == [expected]
        alone.hooked.model.load_state_dict(before)
    assert len({str(found) for found in live}) == 2
    values = UnitValues(torch.zeros(units.space.total), units.space, "zeros")
    for one in (Ablate(units, values), PatchMeans(units, values), Patch(units)):
        with pytest.raises(UserError):
            one.export(alone.hooked)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steering_adds_to_what_enters_a_layer(zoo, architecture):
    model, alone = zoo.model(zoo.source(architecture, None)), loaded(zoo, architecture)
    space = alone.space(SiteKind.RESIDUAL)
    vector = torch.linspace(-1, 1, model.config.get_text_config().hidden_size)
    plain = logits(model)
    for layer in (0, 1):
        name = PARTS[architecture]["layer"].format(layer)
        handle = model.get_submodule(name).register_forward_pre_hook(
            lambda _, args: (args[0] + 3 * vector.double(), *args[1:])
        )
        expected = logits(model)
        handle.remove()
        with intervene(model, Steer.at(layer, vector, space, 3.0)):
            torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-9)
        assert (expected - plain).abs().max() > 1e-3
    for layer, given, said in ((99, vector, "no residual"), (0, vector[1:], "15,")):
        with pytest.raises(UserError, match=said):
            Steer.at(layer, given, space)
    with pytest.raises(UserError, match="no weights"):
        Steer.at(0, vector, space).export(alone.hooked)


def test_steering_in_a_batch_with_other_settings(zoo):
    """Rows that are steered, steered otherwise, scaled, and left alone; against plain hooks."""
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    vector = torch.linspace(-2, 2, 16)
    space, units = pair.space(SiteKind.RESIDUAL), some_neurons(pair, 0.4)
    interventions = [
        (Steer.at(1, vector, space),),
        (Steer.at(1, vector, space, -2.0), Scale(units, 2.0)),
        (Patch(units),),
        (),
    ]
    settings = [Setting(Side.UNALIGNED, one) for one in interventions]
    together = decode(pair, prompts(), settings, max_new_tokens=6)
    alone = [decode(pair, prompts(), [s], max_new_tokens=6)[0] for s in settings]
    assert together == alone
    assert len({str(found) for found in together}) == 4
