"""Rows of one model in memory are, to 1e-9, the models that PEFT makes of two copies."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_neurons.engine import PairedRows, Side
from safety_neurons.errors import UserError
from safety_neurons.inference import left_padded
from safety_neurons.models import ModelPair
from tests.tiny import ARCHITECTURES, LAYERS, load, logits_of, prompts

EXACT = {"rtol": 0, "atol": 1e-9}
KINDS = [
    ("ia3", None),
    (None, "ia3-kv"),
    ("lora", None),
    ("ia3-kv", "lora-rs"),
    ("lora", "ia3"),
]


@torch.no_grad()
def side_logits(pair: ModelPair, asked: dict[Side, list[list[int]]]) -> dict[Side, list]:
    """Logits of every row at its real positions."""
    tokens = {side: left_padded(rows, pair) for side, rows in asked.items()}
    counts = {side: len(rows) for side, rows in asked.items()}
    with PairedRows(pair, counts) as rows:
        out = rows.forward(tokens, logits=0)
    return {
        side: [row[-len(prompt) :] for row, prompt in zip(out[side], asked[side], strict=True)]
        for side in asked
    }


def assert_rows_are_plain_models(zoo, pair: ModelPair, sources: dict[Side, str]) -> None:
    asked = dict.fromkeys(Side, prompts())
    found = side_logits(pair, asked)
    for side, source in sources.items():
        plain = zoo.model(source)
        for row, prompt in zip(found[side], asked[side], strict=True):
            torch.testing.assert_close(row, logits_of(plain, prompt), **EXACT)


@pytest.mark.parametrize(("aligned", "unaligned"), KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_side_of_a_shared_pair_equals_plain_peft(zoo, architecture, aligned, unaligned):
    sources = {
        Side.ALIGNED: zoo.source(architecture, aligned),
        Side.UNALIGNED: zoo.source(architecture, unaligned),
    }
    pair = zoo.pair(*sources.values())
    assert pair.shared
    assert_rows_are_plain_models(zoo, pair, sources)
    # The comparison can only fail if the two sides differ in the first place.
    a, u = (logits_of(zoo.model(s), prompts()[0])[-1] for s in sources.values())
    assert (a - u).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sides_equal_plain_peft_in_single_precision(zoo, architecture):
    pair = ModelPair.load(
        zoo.source(architecture, "ia3"),
        zoo.source(architecture, "lora"),
        dtype=torch.float32,
        device="cpu",
    )
    found = side_logits(pair, dict.fromkeys(Side, prompts()))
    for side, kind in ((Side.ALIGNED, "ia3"), (Side.UNALIGNED, "lora")):
        adapter = zoo.adapter(architecture, kind)
        plain = load(zoo.base(architecture), adapter, dtype=torch.float32)
        for row, prompt in zip(found[side], prompts(), strict=True):
            torch.testing.assert_close(row, logits_of(plain, prompt), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_adapters_of_one_kind_keep_apart(zoo, architecture):
    for kind in ("ia3", "lora"):
        sources = {
            Side.ALIGNED: zoo.source(architecture, kind, seed=0),
            Side.UNALIGNED: zoo.source(architecture, kind, seed=1),
        }
        pair = zoo.pair(*sources.values())
        assert pair.shared
        assert_rows_are_plain_models(zoo, pair, sources)


@pytest.mark.parametrize("kind", ["lora-head", "lora-bias", "dora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_rows_cannot_gate_is_loaded_apart(zoo, architecture, kind):
    """Whole trained modules, biases, and DoRA's norms."""
    sources = {
        Side.ALIGNED: zoo.source(architecture, kind),
        Side.UNALIGNED: zoo.source(architecture, None),
    }
    pair = zoo.pair(*sources.values())
    assert not pair.shared
    assert_rows_are_plain_models(zoo, pair, sources)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_adapters_that_change_their_base_do_not_change_the_other_side(zoo, kind):
    """PEFT takes the start of such a LoRA out of the base's weights when it is loaded."""
    sources = {Side.ALIGNED: zoo.source("llama", kind), Side.UNALIGNED: zoo.source("llama", None)}
    pair = ModelPair.load(*sources.values(), dtype=torch.float32, device="cpu")
    found = side_logits(pair, dict.fromkeys(Side, prompts()))
    for side, source in sources.items():
        base, _, adapter = source.partition("+")
        plain = load(base, adapter or None, dtype=torch.float32)
        for row, prompt in zip(found[side], prompts(), strict=True):
            torch.testing.assert_close(row, logits_of(plain, prompt), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_separate_bases_with_adapters_equal_plain_peft(zoo, architecture):
    copied = f"{zoo.copy(architecture)}+{zoo.adapter(architecture, 'lora')}"
    sources = {Side.ALIGNED: zoo.source(architecture, "ia3-kv"), Side.UNALIGNED: copied}
    pair = zoo.pair(*sources.values())
    assert not pair.shared
    assert_rows_are_plain_models(zoo, pair, sources)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gpt2", "gpt_neox"])
def test_rows_do_not_influence_each_other(zoo, architecture):
    pair = zoo.pair(zoo.source(architecture, "ia3-kv"), zoo.source(architecture, "lora"))
    asked = dict.fromkeys(Side, prompts())
    before = side_logits(pair, asked)
    changed = {**asked, Side.UNALIGNED: [*prompts()[:2], *prompts(seed=1)[2:]]}
    after = side_logits(pair, changed)
    for row in range(3):
        assert torch.equal(before[Side.ALIGNED][row], after[Side.ALIGNED][row])
    for row in range(2):
        assert torch.equal(before[Side.UNALIGNED][row], after[Side.UNALIGNED][row])
    assert not torch.equal(before[Side.UNALIGNED][2], after[Side.UNALIGNED][2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kinds", [("ia3-kv", "lora"), ("lora", "lora-rs")])
def test_the_base_is_unchanged_after_use(zoo, architecture, kinds):
    pair = ModelPair.load(
        *(zoo.source(architecture, kind) for kind in kinds), dtype=torch.float64, device="cpu"
    )
    side_logits(pair, dict.fromkeys(Side, prompts()))
    model, plain = pair.sides[Side.ALIGNED].model, load(zoo.base(architecture))
    # PEFT's wrappers stay in the model, switched off: it is the base again, to the bit.
    assert torch.equal(logits_of(model, prompts()[0]), logits_of(plain, prompts()[0]))
    held = {
        name.replace(".base_layer", ""): value
        for name, value in model.state_dict().items()
        if "lora_" not in name and "ia3_" not in name
    }
    stored = plain.state_dict()
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], stored[name]) for name in stored)


def test_rows_of_unequal_counts(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", "lora"))
    asked = {Side.UNALIGNED: prompts((4, 9)), Side.ALIGNED: prompts((9, 2, 6), seed=3)}
    found = side_logits(pair, asked)
    for side, kind in ((Side.ALIGNED, "ia3"), (Side.UNALIGNED, "lora")):
        plain = zoo.model(zoo.source("llama", kind))
        for row, prompt in zip(found[side], asked[side], strict=True):
            torch.testing.assert_close(row, logits_of(plain, prompt), **EXACT)


def test_one_side_alone_runs_its_own_adapter(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", "lora"))
    for side, kind in ((Side.ALIGNED, "ia3"), (Side.UNALIGNED, "lora")):
        found = side_logits(pair, {side: prompts()})
        expected = logits_of(zoo.model(zoo.source("llama", kind)), prompts()[1])
        torch.testing.assert_close(found[side][1], expected, **EXACT)


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
def test_adapter_scales_are_never_cast_down(zoo, base_dtype):
    pair = ModelPair.load(
        zoo.source("llama", "ia3"), zoo.source("llama", None), dtype=base_dtype, device="cpu"
    )
    stored = load_file(zoo.adapter("llama", "ia3") / "adapter_model.safetensors")
    held = {n: p for n, p in pair.sides[Side.ALIGNED].model.named_parameters() if "ia3_l" in n}
    assert len(held) == len(stored) == LAYERS
    for name, tensor in stored.items():
        layer = name.split(".layers.")[1].split(".")[0]
        (mine,) = (p for n, p in held.items() if f".layers.{layer}." in n)
        assert mine.dtype.itemsize >= 4
        torch.testing.assert_close(mine.double(), tensor, rtol=1e-6, atol=0)


# What must be refused.


def refused(zoo, base, adapter, match: str) -> None:
    with pytest.raises(UserError, match=match):
        ModelPair.load(f"{base}+{adapter}", str(base), dtype=torch.float64, device="cpu")


@pytest.mark.parametrize("kind", ["ia3", "lora"])
def test_adapter_of_another_width_is_refused(zoo, kind):
    base = zoo.base("llama", hidden_size=8, intermediate_size=20)
    refused(zoo, base, zoo.adapter("llama", kind), "does not fit the model")


@pytest.mark.parametrize("kind", ["ia3", "lora", "dora"])
@pytest.mark.parametrize("layers", [LAYERS - 1, LAYERS + 1])
def test_adapter_of_another_depth_is_refused(zoo, kind, layers):
    base = zoo.base("llama", num_hidden_layers=layers)
    refused(zoo, base, zoo.adapter("llama", kind), "give the base model that it was trained on")


@pytest.mark.parametrize("kind", ["ia3", "lora", "lora-head"])
def test_adapter_of_another_architecture_is_refused(zoo, kind):
    refused(zoo, zoo.base("gpt2"), zoo.adapter("llama", kind), "does not fit")


def test_adapter_with_a_missing_tensor_is_refused(zoo, tmp_path):
    folder = shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, {"format": "pt"})
    refused(zoo, zoo.base("llama"), folder, "1 places of the model get no tensor: .*lora_A")


def test_adapter_with_a_wrong_shape_is_refused(zoo, tmp_path):
    folder = shutil.copytree(zoo.adapter("llama", "ia3"), tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name][..., :-1].contiguous()
    save_file(tensors, file, {"format": "pt"})
    refused(zoo, zoo.base("llama"), folder, "does not fit the model")


def test_pickled_adapter_is_refused(zoo, tmp_path):
    folder = shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()
    refused(zoo, zoo.base("llama"), folder, "pickled weights are not loaded")


@pytest.mark.parametrize("kind", ["ADALORA", "PREFIX_TUNING", None])
def test_unsupported_adapter_type_is_refused(zoo, tmp_path, kind):
    folder = shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["peft_type"] = kind
    (folder / "adapter_config.json").write_text(json.dumps(config))
    refused(zoo, zoo.base("llama"), folder, f"of type {kind}")


def test_folder_without_an_adapter_is_refused(zoo, tmp_path):
    refused(zoo, zoo.base("llama"), zoo.base("qwen2"), "no PEFT adapter")


def test_ia3_with_whole_modules_is_refused(zoo):
    refused(zoo, zoo.base("llama"), zoo.adapter("llama", "ia3-head"), "modules_to_save")


def test_models_of_different_shape_cannot_be_paired(zoo):
    with pytest.raises(UserError) as caught:
        ModelPair.load(str(zoo.base("llama")), str(zoo.base("qwen2", num_hidden_layers=5)))
    assert "model_type" in str(caught.value)
    assert "num_hidden_layers: aligned 2, unaligned 5" in str(caught.value)
