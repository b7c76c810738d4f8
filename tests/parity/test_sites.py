"""Neurons are what the design says, in every architecture."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from safety_neurons.engine import PairedRows, Side
from safety_neurons.engine.sites import Site, find_sites, prove_sites
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference import left_padded
from safety_neurons.models import ModelPair
from safety_neurons.units import BlockKey, SiteKind, UnitSpace
from tests.tiny import (
    ARCHITECTURES,
    GATED,
    LAYERS,
    PARTS,
    load,
    logits_of,
    neurons_of,
    prompts,
    random_model,
)

ACTIVATIONS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), F.silu),
    **dict.fromkeys(
        ("gemma2", "gemma3_text", "gemma3", "gpt2"), lambda x: F.gelu(x, approximate="tanh")
    ),
    "gpt_neox": F.gelu,
}
KINDS = (SiteKind.ATTENTION, SiteKind.MLP, SiteKind.RESIDUAL)
WIDTHS = {**dict.fromkeys(ARCHITECTURES, 24), "gpt2": 64}


def mlp_inputs(model, architecture: str, tokens: list[int]) -> list[torch.Tensor]:
    """What each MLP receives, `pos d_model`, by plain hooks."""
    taken: list[torch.Tensor] = []
    handles = [
        model.get_submodule(
            f"{PARTS[architecture]['layer'].format(layer)}.mlp"
        ).register_forward_pre_hook(lambda _, args: taken.append(args[0][0]))
        for layer in range(LAYERS)
    ]
    logits_of(model, tokens)
    for handle in handles:
        handle.remove()
    return taken


def computed_neurons(model, architecture: str, layer: int, x: torch.Tensor) -> torch.Tensor:
    """Activation function and gate, from the stored weights by hand."""
    weights = model.state_dict()
    prefix = PARTS[architecture]["layer"].format(layer) + ".mlp."
    act = ACTIVATIONS[architecture]
    if architecture in GATED:
        gate, up = weights[prefix + "gate_proj.weight"], weights[prefix + "up_proj.weight"]
        return act(x @ gate.T) * (x @ up.T)
    if architecture == "gpt2":
        return act(x @ weights[prefix + "c_fc.weight"] + weights[prefix + "c_fc.bias"])
    into = prefix + "dense_h_to_4h."
    return act(x @ weights[into + "weight"].T + weights[into + "bias"])


def projections(sites: list[Site]) -> list[Site]:
    """The sites that are a projection with weights of its own."""
    return [site for site in sites if site.key.site is not SiteKind.RESIDUAL]


class Recorder:
    """Keeps what arrives at every site."""

    def __init__(self, space: UnitSpace) -> None:
        self.blocks = space.keys
        self.seen: dict[tuple[int, Side], torch.Tensor] = {}

    def __call__(self, block, sides):
        self.seen.update({(block.layer, side): x for side, x in sides.items()})

    def end_pass(self) -> None: ...


@torch.no_grad()
def recorded(pair: ModelPair, asked, kind=SiteKind.MLP) -> dict[tuple[int, Side], torch.Tensor]:
    recorder = Recorder(pair.space(kind))
    with PairedRows(pair, dict.fromkeys(Side, len(asked)), edits=[recorder]) as rows:
        rows.forward(dict.fromkeys(Side, left_padded(asked, pair)))
    return recorder.seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sites_are_found_and_proved(zoo, architecture):
    model = load(zoo.base(architecture))
    sites = find_sites(model)
    keys = [BlockKey(layer, kind) for layer in range(LAYERS) for kind in KINDS]
    assert [site.key for site in sites] == keys
    assert [site.width for site in sites] == [16, WIDTHS[architecture], 16] * LAYERS
    prove_sites(model, sites)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_neuron_is_the_activated_and_gated_value(zoo, architecture):
    pair = zoo.pair(zoo.source(architecture, "ia3"), zoo.source(architecture, None))
    seen, plain = recorded(pair, prompts()), load(zoo.base(architecture))
    for row, prompt in enumerate(prompts()):
        inputs = mlp_inputs(plain, architecture, prompt)
        for layer in range(LAYERS):
            expected = computed_neurons(plain, architecture, layer, inputs[layer])
            found = seen[layer, Side.UNALIGNED][row, -len(prompt) :]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_neuron_includes_the_adapter_scale_at_its_site(zoo, architecture):
    pair = zoo.pair(zoo.source(architecture, "ia3"), zoo.source(architecture, None))
    seen, plain = recorded(pair, prompts()), load(zoo.base(architecture))
    adapted = zoo.model(zoo.source(architecture, "ia3"))
    for row, prompt in enumerate(prompts()):
        inputs = mlp_inputs(adapted, architecture, prompt)
        for layer in range(LAYERS):
            name = f"{PARTS[architecture]['layer'].format(layer)}.{PARTS[architecture]['down']}"
            scale = adapted.get_submodule(name).ia3_l["default"].flatten()
            expected = computed_neurons(plain, architecture, layer, inputs[layer]) * scale
            found = seen[layer, Side.ALIGNED][row, -len(prompt) :]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kinds", [("ia3", None), ("ia3-kv", "lora")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_attention_channel_is_what_the_output_projection_receives(zoo, architecture, kinds):
    sources = {s: zoo.source(architecture, k) for s, k in zip(Side, kinds, strict=True)}
    seen = recorded(zoo.pair(*sources.values()), prompts(), SiteKind.ATTENTION)
    for side, source in sources.items():
        plain = zoo.model(source)
        for row, prompt in enumerate(prompts()):
            expected = neurons_of(plain, architecture, prompt, "out")
            for layer in range(LAYERS):
                found = seen[layer, side][row, -len(prompt) :]
                torch.testing.assert_close(found, expected[layer], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["ia3", "lora"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_sites_of_an_adapted_model_are_the_base_layers(zoo, architecture, kind):
    pair = zoo.pair(zoo.source(architecture, kind), zoo.source(architecture, None))
    plain = {site.key: site.module for site in find_sites(load(zoo.base(architecture)))}
    for site in projections(pair.sides[Side.ALIGNED].sites):
        assert type(site.module) is type(plain[site.key])
        assert torch.equal(site.module.weight, plain[site.key].weight)


@pytest.mark.parametrize(
    "model",
    [
        OPTForCausalLM(
            OPTConfig(vocab_size=64, hidden_size=16, ffn_dim=32, num_hidden_layers=2,
                      num_attention_heads=2, word_embed_proj_dim=16)
        ),
        BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2)),
    ],
    ids=["opt", "bloom"],
)  # fmt: skip
def test_unknown_architecture_is_refused_by_name(model):
    with pytest.raises(UserError, match=f"'{model.config.model_type}'.*{type(model).__name__}"):
        find_sites(model)


def test_a_checkpoint_without_its_layers_is_refused(zoo):
    model = load(zoo.base("llama"))
    model.config.num_hidden_layers = LAYERS + 1
    with pytest.raises(UserError, match=f"{LAYERS} were found"):
        find_sites(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("place", range(2 * LAYERS))
def test_a_module_that_is_never_run_is_no_site(zoo, architecture, place):
    model = load(zoo.base(architecture))
    sites = find_sites(model)
    sites[place] = Site(sites[place].key, "unused", torch.nn.Linear(24, 16), 24)
    with pytest.raises(InterventionError, match="unused"):
        prove_sites(model, sites)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("place", range(2 * LAYERS))
def test_a_module_without_effect_on_the_logits_is_no_site(zoo, architecture, place):
    model = load(zoo.base(architecture))
    sites = projections(find_sites(model))
    sites[place].module.weight.zero_()
    with pytest.raises(InterventionError, match="changed no logit") as caught:
        prove_sites(model, sites)
    assert sites[place].name in str(caught.value)
    assert not any(s.name in str(caught.value) for s in sites if s is not sites[place])


def test_sites_with_swapped_layers_are_told_apart_by_the_layout(zoo):
    """The proof is of effect; the order of layers comes from the names alone."""
    sites = find_sites(load(zoo.base("llama", num_hidden_layers=12)))
    assert [site.key for site in sites] == [BlockKey(i, kind) for i in range(12) for kind in KINDS]
    assert all(f".{site.key.layer}." in f"{site.name}." for site in sites)


def test_proof_leaves_the_model_as_it_was(zoo):
    model = load(zoo.base("llama"))
    before = logits_of(model, prompts()[0])
    prove_sites(model, find_sites(model))
    assert torch.equal(before, logits_of(model, prompts()[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sites_are_proved_in_lower_precision(zoo, architecture, dtype):
    model = AutoModelForCausalLM.from_pretrained(zoo.base(architecture), dtype=dtype)
    prove_sites(model.eval(), find_sites(model))


def test_layout_numbers_neurons_layer_by_layer():
    layout = UnitSpace.neurons((3, 0, 5))
    assert layout.total == 8
    everywhere = torch.arange(8)
    assert layout.layers_of(everywhere).tolist() == [0, 0, 0, 2, 2, 2, 2, 2]
    assert layout.coordinates_of(everywhere).tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert [layout.slice_of(BlockKey(i)) for i in range(3)] == [
        slice(0, 3),
        slice(3, 3),
        slice(3, 8),
    ]


def test_every_site_of_a_fresh_random_model_matters():
    """The perturbation of the proof is seen in every layer, not only in the last."""
    model = random_model("llama", num_hidden_layers=6)
    sites = find_sites(model)
    prove_sites(model, sites)
    for site in projections(sites):
        copied = [dataclasses.replace(s) for s in sites]
        weight = site.module.weight.clone()
        site.module.weight.zero_()
        with pytest.raises(InterventionError, match=rf"layers\.{site.key.layer}\."):
            prove_sites(model, copied)
        site.module.weight.copy_(weight)
