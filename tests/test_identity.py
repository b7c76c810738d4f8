"""A result belongs to what its models hold, whatever their names and times say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_neurons.errors import UserError
from safety_neurons.models import ModelPair, Source
from safety_neurons.storage import digests, sha256_of
from tests.commands import invoke, refused
from tests.tiny import random_model, save, tokenizer


@pytest.fixture
def models(zoo, tmp_path) -> dict[str, Path]:
    """A base and an adapter that the test may change."""
    base, adapter = zoo.source("llama", "ia3").split("+")
    return {
        "base": shutil.copytree(base, tmp_path / "base"),
        "adapter": shutil.copytree(adapter, tmp_path / "adapter"),
    }


@pytest.fixture
def found(models, files, tmp_path) -> Callable:
    """`find` on these models, and what else is asked of the run."""

    def find(*more: object):
        return invoke(
            *("find", "--unaligned", models["base"]),
            *("--aligned", f"{models['base']}+{models['adapter']}"),
            *("--prompts", files["find"], "--max-new-tokens", 4, "--out", tmp_path / "run", *more),
        )

    done = find()
    assert done.exit_code == 0, done.output
    return find


def keep_times(file: Path, change: Callable[[], None]) -> None:
    """`change` a file and give it its old modification time."""
    before = file.stat()
    change()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def one_column(file: Path) -> None:
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "down_proj" in name)
    tensors[name][..., 0] += 1
    save_file(tensors, file, {"format": "pt"})


def other_end(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": 9}))


def other_template(file: Path) -> None:
    file.write_text(file.read_text().replace("assistant", "system"))


CHANGES = {
    "one column of the weights": ("base", "model.safetensors", one_column),
    "the adapter": ("adapter", "adapter_model.safetensors", one_column),
    "the end token": ("base", "generation_config.json", other_end),
    "the chat template": ("base", "chat_template.jinja", other_template),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_was_replaced_in_place_is_another_model(changed, models, found, files, tmp_path):
    side, name, change = CHANGES[changed]
    keep_times(models[side] / name, lambda: change(models[side] / name))
    run, said = tmp_path / "run", name
    refused(found(), "was found on other models", said)
    refused(invoke("validate", run, "--prompts", files["test"], "--max-new-tokens", 4), said)
    asked = ("--prompts", files["test"], "--share", 0.1, "--out", tmp_path / "answers.jsonl")
    refused(invoke("generate", run, *asked), said)
    assert not (tmp_path / "answers.jsonl").exists()


def test_another_template_from_is_another_run(found):
    refused(found("--template-from", "unaligned"), "--template-from")


def test_an_untouched_copy_elsewhere_is_the_same_model(models, found, files, tmp_path):
    moved = {name: shutil.move(path, f"{path}-moved") for name, path in models.items()}
    again = invoke(
        *("find", "--unaligned", moved["base"], "--aligned", f"{moved['base']}+{moved['adapter']}"),
        *("--prompts", files["find"], "--max-new-tokens", 4, "--out", tmp_path / "run"),
    )
    assert again.exit_code == 0, again.output
    asked = ("--prompts", files["test"], "--share", 0.1, "--out", tmp_path / "answers.jsonl")
    done = invoke("generate", tmp_path / "run", *asked, "--max-new-tokens", 2)
    assert done.exit_code == 0, done.output  # it knows where they lie now


def test_a_relative_path_means_the_same_model_from_everywhere(
    models,
    files,
    tmp_path,
    monkeypatch,
):
    monkeypatch.chdir(tmp_path)
    done = invoke(
        *("find", "--unaligned", "base", "--aligned", "base+adapter", "--out", "run"),
        *("--prompts", files["find"], "--max-new-tokens", 4),
    )
    assert done.exit_code == 0, done.output
    elsewhere = tmp_path / "elsewhere"
    save(random_model("llama", 5), elsewhere / "base")
    shutil.copytree(models["adapter"], elsewhere / "adapter")
    monkeypatch.chdir(elsewhere)
    asked = ("--prompts", files["test"], "--share", 0.1, "--out", "answers.jsonl")
    done = invoke("generate", tmp_path / "run", *asked, "--max-new-tokens", 2)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["models"]["unaligned"]["location"]["base"] == str(models["base"])


def test_prompts_are_what_they_hold(models, found, files, tmp_path, monkeypatch):
    moved = shutil.copy(files["find"], tmp_path / "the-same.jsonl")
    assert found("--prompts", moved).exit_code == 0
    refused(found("--prompts", files["test"]), "other prompts")


def test_state_of_other_models_is_not_used(zoo, files, tmp_path):
    """Answers and sums that were kept for other weights with the same names."""
    run = tmp_path / "run"

    def find(base: Path) -> None:
        arguments = ("--prompts", files["find"], "--max-new-tokens", 4, "--out", run)
        done = invoke("find", "--unaligned", base, "--aligned", zoo.base("llama", 1), *arguments)
        assert done.exit_code == 0, done.output

    base = shutil.copytree(zoo.base("llama"), tmp_path / "base")
    find(base)
    first = (run / "neurons.parquet").read_bytes()
    one_column(base / "model.safetensors")
    for file in run.iterdir():
        if file.is_file():
            file.unlink()  # all but the state
    find(base)
    shutil.copytree(run, tmp_path / "second")
    shutil.rmtree(run)
    find(base)
    assert (
        (run / "neurons.parquet").read_bytes()
        == (tmp_path / "second/neurons.parquet").read_bytes()
        != first
    )


def test_files_that_decide_nothing_do_not_count(models):
    before = ModelPair.load(str(models["base"]), str(models["base"])).identity
    (models["base"] / "trainer_state.json").write_text("{}")
    (models["base"] / "README.md").write_text("mine")
    assert ModelPair.load(str(models["base"]), str(models["base"])).identity == before


def test_every_shard_counts(tmp_path):
    model = random_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    before = ModelPair.load(str(tmp_path), str(tmp_path)).identity
    tensors = load_file(shards[-1])
    name = min(tensors)
    tensors[name].view(-1)[-1] += 1
    keep_times(shards[-1], lambda: save_file(tensors, shards[-1], {"format": "pt"}))
    assert ModelPair.load(str(tmp_path), str(tmp_path)).identity != before


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFETY_NEURONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -1.0)  # as if the file were old
    read = []
    plain = digests.hashlib.file_digest

    def counted(stream, name):
        read.append(stream.name)
        return plain(stream, name)

    monkeypatch.setattr(digests.hashlib, "file_digest", counted)
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 100)
    first = sha256_of(file)
    assert sha256_of(file) == first
    assert len(read) == 1
    keep_times(file, lambda: file.write_bytes(b"b" * 100))
    assert sha256_of(file) != first
    assert len(read) == 2


def test_a_digest_of_a_young_file_is_not_kept(tmp_path, monkeypatch):
    """Within the tick of the file system's clock it could change once more unseen."""
    monkeypatch.setenv("SAFETY_NEURONS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"a")
    sha256_of(file)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"0" * 63, b"\xff" * 64, b"z" * 64])
def test_a_damaged_digest_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("SAFETY_NEURONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -1.0)
    file = tmp_path / "weights"
    file.write_bytes(b"a")
    right = sha256_of(file)
    (kept,) = (tmp_path / "cache/digests").iterdir()
    kept.write_bytes(damage)
    assert sha256_of(file) == right


def test_a_model_that_changes_while_it_is_loaded_is_refused(models, monkeypatch):
    from safety_neurons.models import checkpoints

    plain = checkpoints.load_model

    def and_change(folder, **more):
        loaded = plain(folder, **more)
        one_column(models["base"] / "model.safetensors")
        return loaded

    monkeypatch.setattr(checkpoints, "load_model", and_change)
    with pytest.raises(UserError, match="changed while it was loaded"):
        ModelPair.load(str(models["base"]), str(models["base"]))


@pytest.mark.parametrize("name", ["a+b", "+", "x+y+z"])
def test_an_adapter_path_may_hold_a_plus(models, tmp_path, name):
    adapter = shutil.copytree(models["adapter"], tmp_path / f"with{name}" / name)
    source = Source.parse(f"{models['base']}+{adapter}")
    assert (source.base, source.adapter) == (str(models["base"]), str(adapter))
    pair = ModelPair.load(f"{models['base']}+{adapter}", str(models["base"]))
    assert pair.shared
    base = shutil.copytree(models["base"], tmp_path / f"base{name}" / name)
    assert Source.parse(f"{base}+{adapter}") == Source(str(base), str(adapter))
    embedded = Source.parse(f"embedded:unaligned+{adapter}")
    assert embedded == Source("embedded:unaligned", str(adapter))


def test_a_source_that_can_be_read_in_two_ways_is_refused(tmp_path):
    for name in ("a", "b+c", "a+b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "x").mkdir()
    text = f"{tmp_path}/a+{tmp_path}/b+c"
    assert Source.parse(text) == Source(f"{tmp_path}/a", f"{tmp_path}/b+c")
    (tmp_path / "a+" / str(tmp_path)[1:] / "b").mkdir(parents=True)
    monkey = Path.cwd()
    try:
        os.chdir(tmp_path)
        (tmp_path / "p+q").mkdir()
        (tmp_path / "p").mkdir()
        (tmp_path / "q+r").mkdir()
        (tmp_path / "r").mkdir()
        with pytest.raises(UserError, match="can be read as"):
            Source.parse("p+q+r")
    finally:
        os.chdir(monkey)


def test_a_hub_commit_can_be_named():
    assert Source.parse("owner/name@abc+other/adapter") == Source("owner/name@abc", "other/adapter")


def test_the_pair_in_memory_is_named_by_content(zoo):
    aligned, unaligned = zoo.source("llama", "ia3"), zoo.source("llama", None)
    pair = zoo.pair(aligned, unaligned)
    files = pair.provenance["aligned"]["files"]
    assert {"config.json", "model.safetensors", "adapter/adapter_model.safetensors"} <= set(files)
    weights = zoo.base("llama") / "model.safetensors"
    assert files["model.safetensors"] == sha256_of(weights)
    assert pair.identity != zoo.pair(unaligned, unaligned).identity
    assert pair.dtype == torch.float64
