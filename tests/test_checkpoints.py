"""Checkpoints whose tensors are not those that their configuration asks for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safety_neurons.errors import UserError
from safety_neurons.models import ModelPair
from tests.tiny import random_model, save

DOWN = "model.layers.1.mlp.down_proj.weight"


def changed(zoo, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> str:
    folder = shutil.copytree(zoo.base("llama"), tmp_path / "checkpoint")
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return str(folder)


def load(source: str) -> ModelPair:
    return ModelPair.load(source, source, device="cpu")


def without(*names: str):
    return lambda tensors: {k: v for k, v in tensors.items() if k not in names}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model._orig_mod."])
def test_a_wrappers_prefix_is_refused(zoo, tmp_path, prefix):
    source = changed(zoo, tmp_path, lambda t: {prefix + k: v for k, v in t.items()})
    with pytest.raises(UserError, match=r"tensors are missing: lm_head.weight, .* more"):
        load(source)


@pytest.mark.parametrize("name", [DOWN, "lm_head.weight", "model.norm.weight"])
def test_one_tensor_left_out_is_named(zoo, tmp_path, name):
    with pytest.raises(UserError, match=f"1 tensors are missing: {re.escape(name)}"):
        load(changed(zoo, tmp_path, without(name)))


def test_a_tied_head_need_not_be_there(tmp_path):
    save(random_model("llama", tie_word_embeddings=True), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert load(str(tmp_path)).notes == ()


def test_a_tensor_of_another_shape_is_named(zoo, tmp_path):
    source = changed(zoo, tmp_path, lambda t: {**t, DOWN: t[DOWN][:, :-1].contiguous()})
    with pytest.raises(UserError, match=r"down_proj.weight \(\(16, 23\) where \(16, 24\)"):
        load(source)


def test_layers_that_the_configuration_leaves_out_are_named(zoo, tmp_path):
    folder = Path(shutil.copytree(zoo.base("llama"), tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 1
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"have no place in the model: model\.layers\.1"):
        load(str(folder))


def test_biases_that_the_configuration_leaves_out_are_named(zoo, tmp_path):
    bias = "model.layers.0.self_attn.q_proj.bias"
    source = changed(zoo, tmp_path, lambda t: {**t, bias: torch.ones(16)})
    with pytest.raises(UserError, match=r"have no place in the model: .*q_proj\.bias"):
        load(source)


def test_a_head_for_something_else_is_said(zoo, tmp_path):
    """A reward model's score: the language model is complete without it."""
    source = changed(zoo, tmp_path, lambda t: {**t, "score.weight": torch.ones(1, 16)})
    (note,) = load(source).notes
    assert "score.weight" in note
    assert "not used" in note


def test_all_faults_are_in_one_error(zoo, tmp_path):
    source = changed(
        zoo,
        tmp_path,
        lambda t: {
            **without("lm_head.weight")(t),
            DOWN: t[DOWN][:, :-1].contiguous(),
            "model.layers.7.mlp.up_proj.weight": torch.ones(1),
        },
    )
    with pytest.raises(UserError) as caught:
        load(source)
    assert "are missing: lm_head" in str(caught.value)
    assert "another shape" in str(caught.value)
    assert "no place in the model: model.layers.7" in str(caught.value)


def test_an_adapter_beside_the_model_is_not_loaded_unseen(zoo, tmp_path):
    """transformers loads it on top of the model, without a word."""
    folder = shutil.copytree(zoo.base("llama"), tmp_path / "both")
    shutil.copytree(zoo.adapter("llama", "lora"), folder, dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds a model and an adapter"):
        load(str(folder))


def test_an_adapter_in_the_place_of_a_model_is_said(zoo):
    with pytest.raises(UserError, match=r"it is an adapter, so write BASE\+"):
        load(str(zoo.adapter("llama", "lora")))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_a_quantised_model_without_its_library_is_one_sentence(zoo, tmp_path, method):
    folder = Path(shutil.copytree(zoo.base("llama"), tmp_path / "quantised"))
    config = json.loads((folder / "config.json").read_text())
    more = {"bitsandbytes": {"load_in_4bit": True}}.get(method, {"bits": 4})
    config["quantization_config"] = {"quant_method": method, **more}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"install the library of its quantisation \\({method}\\)"):
        load(str(folder))


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "meta", "xyz", ""])
def test_a_device_that_is_not_there_is_one_sentence(zoo, device):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UserError, match="this machine has cpu"):
        ModelPair.load(zoo.source("llama", None), zoo.source("llama", None), device=device)


def test_weights_that_are_not_finite_are_said_at_load(zoo, tmp_path):
    source = changed(zoo, tmp_path, lambda t: {**t, DOWN: t[DOWN] * torch.inf})
    with pytest.raises(UserError, match="not finite"):
        load(source)


def test_what_a_library_warns_of_is_told(zoo, tmp_path):
    """A setting that is not understood is left out, and its log is all that says so."""
    folder = Path(shutil.copytree(zoo.base("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["scaling_by"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    (note,) = load(str(folder)).notes
    assert "scaling_by" in note


def test_a_model_without_a_chat_template_is_told(zoo, tmp_path):
    folder = Path(shutil.copytree(zoo.base("llama"), tmp_path / "model"))
    (folder / "chat_template.jinja").unlink()
    (note,) = load(str(folder)).notes
    assert "no chat template" in note


def test_a_template_that_only_processors_read_is_used(zoo, tmp_path):
    folder = Path(shutil.copytree(zoo.base("llama"), tmp_path / "model"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load(str(folder)).tokenizer.chat_template == template
