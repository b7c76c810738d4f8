"""Exported checkpoints, loaded by plain transformers, against PEFT's own models."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from safety_neurons.errors import UserError
from safety_neurons.models.checkpoints import load_tokenizer
from safety_neurons.models.exporting import export
from safety_neurons.models.sources import Source, resolve
from tests.tiny import ARCHITECTURES, load, random_model, save_adapter

TOKENS = torch.tensor([[1, 9, 23, 40, 11], [1, 30, 8, 17, 52]])
KINDS = (None, "ia3", "ia3-kv", "lora", "lora-rs", "lora-lm-head", "lora-embed", "ia3-lm-head")


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


def exported(source: str, folder, edits=None):
    out = export(resolve(Source.parse(source)), folder, edits)
    return AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_are_folded_in(zoo, architecture, kind, tmp_path):
    source = zoo.source(architecture, kind)
    plain = exported(source, tmp_path / "out")
    assert plain.dtype == torch.float64
    torch.testing.assert_close(logits(plain), logits(zoo.model(source)), rtol=0, atol=1e-9)


def shifted(tensor: torch.Tensor) -> torch.Tensor:
    return tensor + 0.5


@pytest.mark.parametrize("kind", ["lora", "lora-lm-head", "lora-embed", "lora-embed-lm-head"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_a_head_that_an_adapter_unties_is_untied(zoo, architecture, kind, tmp_path):
    base = zoo.base(architecture, tie_word_embeddings=True)
    adapter = tmp_path / "adapter"
    save_adapter(base, architecture, kind, adapter, 0)
    plain = exported(f"{base}+{adapter}", tmp_path / "out")
    expected = logits(zoo.plain(base, adapter))
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-9)
    tied = json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"]
    assert tied is (kind == "lora")


def test_edits_come_after_the_adapter_and_in_shards(zoo, tmp_path):
    base = tmp_path / "base"
    model = random_model("llama")
    model.save_pretrained(base, max_shard_size="6KB")
    shutil.copytree(
        zoo.base("llama"), base, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors")
    )
    assert len(list(base.glob("*.safetensors"))) > 2
    adapter = zoo.adapter("llama", "ia3")
    name = "model.layers.1.mlp.down_proj.weight"
    plain = exported(f"{base}+{adapter}", tmp_path / "out", {name: shifted})
    adapted = PeftModel.from_pretrained(load(base), str(adapter)).merge_and_unload()
    adapted.get_parameter(name).data += 0.5
    torch.testing.assert_close(logits(plain), logits(adapted), rtol=0, atol=1e-9)
    names = sorted(file.name for file in base.glob("*.safetensors*"))
    assert sorted(file.name for file in (tmp_path / "out").glob("*.safetensors*")) == names
    assert (tmp_path / "out/tokenizer.json").is_file()


def test_sums_are_made_in_single_precision_and_cast_once(zoo, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(zoo.base("llama"), base)
    file = base / "model.safetensors"
    with safe_open(file, "pt") as opened:
        half = {name: opened.get_tensor(name).bfloat16() for name in opened.keys()}  # noqa: SIM118
    save_file(half, file, {"format": "pt"})
    export(resolve(Source.parse(f"{base}+{zoo.adapter('llama', 'ia3')}")), tmp_path / "out")
    scale = next(
        layer.ia3_l["default"].float().flatten()
        for name, layer in zoo.model(zoo.source("llama", "ia3")).named_modules()
        if name.endswith("layers.0.mlp.down_proj")
    )
    name = "model.layers.0.mlp.down_proj.weight"
    with safe_open(tmp_path / "out/model.safetensors", "pt") as opened:
        written = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    assert torch.equal(written[name], (half[name].float() * scale).bfloat16())
    assert all(torch.equal(written[key], half[key]) for key in half if "down_proj" not in key)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(zoo, tmp_path):
    llama = str(zoo.base("llama"))
    quantised = tmp_path / "quantised"
    shutil.copytree(llama, quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (quantised / "config.json").write_text(json.dumps(config))
    there = tmp_path / "there"
    there.mkdir()
    out = tmp_path / "out"
    for source, folder, edits, said in (
        (llama, there, None, "exists already"),
        (str(quantised), out, None, "is quantised"),
        (zoo.source("llama", "dora"), out, None, "does more than"),
        (zoo.source("llama", "lora-bias"), out, None, "does more than"),
        (zoo.source("llama", "lora-head"), out, None, "does more than"),
        (llama, out, {"model.layers.9.mlp.down_proj.weight": shifted}, "has no tensor that is"),
    ):
        with pytest.raises(UserError, match=said):
            export(resolve(Source.parse(source)), folder, edits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quantised", "there"]
    assert not list(there.iterdir())


def test_a_failure_on_the_way_leaves_nothing(zoo, tmp_path):
    def fails(tensor):
        raise RuntimeError("stopped")

    source = resolve(Source.parse(str(zoo.base("llama"))))
    with pytest.raises(RuntimeError, match="stopped"):
        export(source, tmp_path / "out", {"model.layers.0.mlp.down_proj.weight": fails})
    assert not list(tmp_path.iterdir())


def test_the_tokenizer_is_the_one_that_the_source_is_read_with(zoo, tmp_path):
    base, adapter = zoo.base("llama"), tmp_path / "adapter"
    for name, change in (
        ("plain", lambda: None),
        ("template", lambda: (adapter / "chat_template.jinja").write_text("{{ 'hi' }}")),
        ("settings", lambda: (adapter / "tokenizer_config.json").write_text('{"bos_token": "x"}')),
        ("whole", lambda: shutil.copyfile(base / "tokenizer.json", adapter / "tokenizer.json")),
    ):
        if not adapter.exists():
            shutil.copytree(zoo.adapter("llama", "ia3"), adapter)
        change()
        source = resolve(Source.parse(f"{base}+{adapter}"))
        wanted = load_tokenizer(source)
        found = load_tokenizer(resolve(Source.parse(str(export(source, tmp_path / name)))))
        assert found.chat_template == wanted.chat_template, name
        assert found.get_vocab() == wanted.get_vocab()
        assert found.special_tokens_map == wanted.special_tokens_map, name
        left = {file.name for file in (tmp_path / name).iterdir()}
        assert not left & {"README.md", "adapter_config.json", "adapter_model.safetensors"}
