"""What units read and write in tokens, against merged weights and norms written out by hand."""

from __future__ import annotations

import pytest
import torch

from safety_neurons.methods import lens
from safety_neurons.models import LoadedModel
from safety_neurons.units import SiteKind
from tests.parity.test_steering import LAST, POST, merged
from tests.tiny import ARCHITECTURES, LAYERS, PARTS, VOCABULARY, down_projections

KINDS = ["ia3", "lora", "lora-embed-lm-head", None]
NAMES = {"mlp.gate_proj": "gate", "mlp.up_proj": "up"}
KNOWN = VOCABULARY - 3
"""Of the tokens, those that a tokenizer is said to have."""


def loaded(zoo, architecture: str, kind: str | None) -> LoadedModel:
    return LoadedModel.load(zoo.source(architecture, kind), dtype=torch.float64, device="cpu")


def reference_of(zoo, architecture: str, kind: str | None):
    """Units are what an (IA)³ has scaled already, so that merging it would scale columns twice."""
    return merged(zoo, architecture, None if kind == "ia3" else kind)


def by_norm(norm, row: torch.Tensor) -> torch.Tensor:
    """What a norm at unit scale makes of a part of what it reads."""
    if isinstance(norm, torch.nn.LayerNorm):
        return (row - row.mean()) * norm.weight
    return row * (1 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight)


def weight_rows(module, unit: int, *, inputs: bool) -> torch.Tensor:
    """The weights of one input or output; GPT-2 keeps its matrices the other way round."""
    first = (type(module).__name__ == "Conv1D") == inputs
    return module.weight[unit] if first else module.weight[:, unit]


def written(model, architecture: str, layer: int, unit: int) -> torch.Tensor:
    column = weight_rows(down_projections(model, architecture)[layer], unit, inputs=True)
    if architecture not in POST:
        return column
    behind = f"{PARTS[architecture]['layer'].format(layer)}.post_feedforward_layernorm"
    return by_norm(model.get_submodule(behind), column)


def read_rows(model, architecture: str, layer: int, unit: int) -> dict[str, torch.Tensor]:
    parts = PARTS[architecture]
    return {
        NAMES.get(name, "in"): weight_rows(
            model.get_submodule(f"{parts['layer'].format(layer)}.{name}"), unit, inputs=False
        )
        for name in parts["into"]
    }


def same(found: list[tuple[int, float]], figures: torch.Tensor, close: float, sign: float) -> None:
    order = sorted(range(len(figures)), key=lambda i: -sign * float(figures[i]))[: lens.TOKENS]
    assert [token for token, _ in found] == order
    values = [value for _, value in found]
    assert values == pytest.approx([float(figures[i]) for i in order], rel=close, abs=close)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_readings_are_products_with_the_merged_weights(zoo, architecture, kind):
    model, reference = loaded(zoo, architecture, kind), reference_of(zoo, architecture, kind)
    space = model.space()
    width = space.widths[0]
    units = [width + 3, 0, 2 * width - 1]
    found = lens.readings(model.hooked, space, units, tokens=KNOWN)
    body = "model.language_model" if architecture == "gemma3" else "model"
    last = reference.get_submodule(LAST.get(architecture, f"{body}.norm"))
    head = reference.get_output_embeddings().weight[:KNOWN]
    embedding = reference.get_input_embeddings().weight[:KNOWN]
    # Norms keep their parameters in float64 here, and RMS norms compute in float32.
    close = 1e-4
    for unit, of_unit in zip(units, found, strict=True):
        layer, column = divmod(unit, width)
        logits = head @ by_norm(last, written(reference, architecture, layer, column))
        expected = {"writes": logits - logits.mean()}
        for name, row in read_rows(reference, architecture, layer, column).items():
            expected[name] = torch.cosine_similarity(embedding, row[None], dim=1)
        assert [reading.of for reading in of_unit] == list(expected)
        for reading in of_unit:
            same(reading.highest, expected[reading.of], close, 1.0)
            same(reading.lowest, expected[reading.of], close, -1.0)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["ia3", "lora"])
@torch.no_grad()
def test_neighbours_are_those_with_the_largest_cosines(zoo, architecture, kind):
    model, reference = loaded(zoo, architecture, kind), reference_of(zoo, architecture, kind)
    space = model.space()
    width = space.widths[0]
    columns = torch.stack(
        [
            written(reference, architecture, layer, unit)
            for layer in range(LAYERS)
            for unit in range(width)
        ]
    )
    units = [width + 1, 4]
    found = lens.alike(model.hooked, space, units, kept=6)
    for unit, nearest in zip(units, found, strict=True):
        cosines = torch.cosine_similarity(columns, columns[unit][None], dim=1)
        order = [i for i in cosines.abs().argsort(descending=True).tolist() if i != unit][:6]
        assert nearest == [(i, pytest.approx(float(cosines[i]), abs=1e-5)) for i in order]


@torch.no_grad()
def test_attention_channels_have_a_column_and_no_rows(zoo):
    model, reference = loaded(zoo, "gemma2", None), merged(zoo, "gemma2", None)
    space = model.space(SiteKind.ATTENTION)
    ((reading,),) = lens.readings(model.hooked, space, [2], tokens=VOCABULARY)
    layer = reference.model.layers[0]
    column = by_norm(layer.post_attention_layernorm, layer.self_attn.o_proj.weight[:, 2])
    logits = reference.lm_head.weight @ by_norm(reference.model.norm, column)
    same(reading.highest, logits - logits.mean(), 1e-4, 1.0)
    both = model.space(SiteKind.MLP, SiteKind.ATTENTION)
    (nearest,) = lens.alike(model.hooked, both, [0], kept=both.total)
    assert len(nearest) == both.total - 1
    assert 0 not in dict(nearest)
