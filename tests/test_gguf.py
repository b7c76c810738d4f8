"""GGUF files: converted rightly, known by content, made again when the cache is damaged."""

from __future__ import annotations

import contextlib
import os
import random

import pytest
import torch

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.models import ModelPair
from safety_neurons.models import gguf as conversion
from tests.commands import invoke, refused
from tests.gguf_model import write_gguf
from tests.tiny import logits_of, random_model

IDS = [1, 30, 40, 5]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFETY_NEURONS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path):
    return write_gguf(random_model("llama"), tmp_path / "tiny.gguf")


def load(file) -> ModelPair:
    return ModelPair.load(str(file), str(file), device="cpu")


def test_a_converted_model_is_the_model(file):
    with torch.no_grad():
        wanted = logits_of(random_model("llama").float(), IDS)
        found = logits_of(load(file).sides[Side.ALIGNED].model, IDS)
    assert torch.equal(found, wanted)


def test_a_file_replaced_in_place_is_another_model(file, files, tmp_path):
    sibling = write_gguf(random_model("llama", 2), tmp_path / "sibling.gguf")
    arguments = ("find", "--aligned", file, "--unaligned", sibling, "--out", tmp_path / "run")
    arguments = (*arguments, "--prompts", files["find"], "--max-new-tokens", 3)
    assert invoke(*arguments).exit_code == 0
    before = file.stat()
    write_gguf(random_model("llama", 1), file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    refused(invoke(*arguments), "was found on other models", "model.safetensors")
    asked = ("--share", 0.1, "--prompts", files["test"], "--out", tmp_path / "out.jsonl")
    refused(invoke("generate", tmp_path / "run", *asked), "was found on other models")


def test_a_tensor_left_out_is_named(tmp_path):
    name = "model.layers.1.mlp.down_proj.weight"
    file = write_gguf(random_model("llama"), tmp_path / "less.gguf", leave_out=name)
    with pytest.raises(UserError, match=f"are missing: {name}"):
        load(file)


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json", ".digests.json"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_damaged_conversion_is_made_again(file, cache, damaged, lost):
    before = load(file).identity
    (kept,) = [f for f in cache.rglob(damaged) if "gguf" in str(f)]
    if lost:
        kept.unlink()
    else:
        data = bytearray(kept.read_bytes())
        data[-5] ^= 1
        kept.write_bytes(bytes(data))
    assert load(file).identity == before


@pytest.mark.parametrize("how", ["empty", "half", "torn", "text"])
def test_a_damaged_file_is_one_sentence(file, cache, how):
    data = file.read_bytes()
    changed = {"empty": b"", "half": data[: len(data) // 2], "torn": data[:-40], "text": b"GGUF"}
    file.write_bytes(changed[how])
    with pytest.raises(UserError, match=r"tiny\.gguf' could not be read"):
        load(file)
    assert not list((cache / "gguf").iterdir())


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_no_traceback(file, seed):
    data = bytearray(file.read_bytes())
    data[random.Random(seed).randrange(3000)] ^= 1 << seed
    file.write_bytes(bytes(data))
    with contextlib.suppress(UserError):
        load(file)


def test_one_conversion_serves_copies_of_a_file(file, tmp_path, monkeypatch):
    made = []
    plain = conversion._convert
    monkeypatch.setattr(conversion, "_convert", lambda *a: made.append(a) or plain(*a))
    load(file)
    load(file.rename(tmp_path / "moved.gguf"))
    assert len(made) == 1
