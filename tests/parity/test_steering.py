"""Direct logits against neurons zeroed by hand, everything behind them held, one at a time."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from safety_neurons.engine import ALONE, Side
from safety_neurons.methods.steering import direct_logits
from safety_neurons.models import LoadedModel
from tests.parity.test_contrast import COMPLETIONS
from tests.tiny import ARCHITECTURES, LAYERS, PARTS, down_projections, pre_hooks, prompts

RMS_NORMS = (
    LlamaRMSNorm,
    MistralRMSNorm,
    Qwen2RMSNorm,
    Qwen3RMSNorm,
    Gemma2RMSNorm,
    Gemma3RMSNorm,
)
KINDS = ["ia3", "lora", "lora-lm-head", None]
LAST = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
POST = {"gemma2", "gemma3_text", "gemma3"}


def merged(zoo, architecture: str, kind: str | None):
    model = AutoModelForCausalLM.from_pretrained(zoo.base(architecture), dtype=torch.float64)
    head = model.get_output_embeddings()  # merging shall not change a tied embedding, too
    head.weight = torch.nn.Parameter(head.weight.clone())
    if kind is not None:
        model = PeftModel.from_pretrained(
            model, str(zoo.adapter(architecture, kind))
        ).merge_and_unload()
    return model.eval().requires_grad_(False)


def held(norm, x: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """The norm of `moved` with the scale (and for a LayerNorm the form) that it has at `x`."""
    if isinstance(norm, torch.nn.LayerNorm):
        scale = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
        return (moved - moved.mean(-1, keepdim=True)) * scale * norm.weight + norm.bias
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    scale = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    gain = 1 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight
    return moved * scale * gain


def by_hand(model, architecture, prompt, completion, layer, column) -> float:
    """What the logits lose without one neuron: later blocks and the norms held."""
    parts = PARTS[architecture]
    taken = {}
    body = "model.language_model" if architecture == "gemma3" else "model"
    norm = model.get_submodule(LAST.get(architecture, f"{body}.norm"))
    head = model.get_output_embeddings()
    downs = down_projections(model, architecture)
    keep = [norm.register_forward_pre_hook(lambda _, args: taken.__setitem__("last", args[0]))]
    post = None
    if architecture in POST:
        name = f"{parts['layer'].format(layer)}.post_feedforward_layernorm"
        post = model.get_submodule(name)
        keep.append(post.register_forward_pre_hook(lambda _, a: taken.__setitem__("post", a[0])))
    tokens = torch.tensor([[*prompt, *completion[:-1]]])
    neurons = {}
    with pre_hooks(downs, neurons.__setitem__):
        model(input_ids=tokens, use_cache=False)
    for handle in keep:
        handle.remove()
    weight = downs[layer].weight
    read = weight[column] if architecture == "gpt2" else weight[:, column]
    lost = neurons[layer][0, :, column, None] * read
    if post is not None:
        given = taken["post"][0]
        lost = held(post, given, given) - held(post, given, given - lost)
    stream = taken["last"][0]
    whole = held(norm, stream, stream) @ head.weight.T
    without = held(norm, stream, stream - lost) @ head.weight.T
    change = (whole - without)[len(prompt) - 1 :]
    chosen = change[torch.arange(len(completion)), torch.tensor(completion)]
    return float((chosen - change.mean(-1)).sum())


@pytest.fixture
def exact_norms(monkeypatch):
    """RMS norms in the model's own precision; transformers computes them in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        eps = getattr(self, "variance_epsilon", getattr(self, "eps", None))
        gain = 1 + self.weight if "Gemma" in type(self).__name__ else self.weight
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain

    for norm in RMS_NORMS:
        monkeypatch.setattr(norm, "forward", forward)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_direct_logits_are_exactly_what_zeroing_takes(zoo, exact_norms, architecture, kind):
    model = LoadedModel.load(zoo.source(architecture, kind), dtype=torch.float64, device="cpu")
    found = direct_logits(model, ALONE, prompts(), COMPLETIONS)
    reference = merged(zoo, architecture, kind)
    width = model.space().widths[0]
    for layer in range(LAYERS):
        for column in (0, 7, width - 1):
            for row, (prompt, completion) in enumerate(zip(prompts(), COMPLETIONS, strict=True)):
                expected = by_hand(reference, architecture, prompt, completion, layer, column)
                said = found[row, layer * width + column].item()
                assert said == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_direct_logits_are_what_zeroing_takes(zoo, architecture, kind):
    model = LoadedModel.load(zoo.source(architecture, kind), dtype=torch.float64, device="cpu")
    found = direct_logits(model, ALONE, prompts(), COMPLETIONS)
    reference = merged(zoo, architecture, kind)
    width = model.space().widths[0]
    # RMS norms are computed in float32 whatever the model is, and so are their scales.
    close = 1e-9 if architecture in LAST else 1e-5
    for layer in range(LAYERS):
        for column in (0, 7, width - 1):
            for row, (prompt, completion) in enumerate(zip(prompts(), COMPLETIONS, strict=True)):
                expected = by_hand(reference, architecture, prompt, completion, layer, column)
                said = found[row, layer * width + column].item()
                assert said == pytest.approx(expected, rel=close, abs=close)


@torch.no_grad()
def test_the_sides_of_a_pair_are_read_alike(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    for side, kind in ((Side.ALIGNED, "ia3"), (Side.UNALIGNED, None)):
        alone = LoadedModel.load(zoo.source("llama", kind), dtype=torch.float64, device="cpu")
        torch.testing.assert_close(
            direct_logits(pair, side, prompts(), COMPLETIONS),
            direct_logits(alone, ALONE, prompts(), COMPLETIONS),
            rtol=1e-9,
            atol=1e-9,
        )
