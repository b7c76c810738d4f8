"""Siblings of faults that use had shown, each on the smallest input that shows it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from safety_neurons.cli.options import parse_template_args
from safety_neurons.errors import UserError
from safety_neurons.models import ModelPair, Source
from safety_neurons.runs import RunFolder
from safety_neurons.storage import require_place
from tests.commands import invoke, refused, replaced
from tests.tiny import random_model, tokenizer


def identity(folder: Path, adapter: Path | None = None, **more) -> str:
    source = str(folder) if adapter is None else f"{folder}+{adapter}"
    return ModelPair.load(source, source, device="cpu", **more).identity


@pytest.fixture
def base(zoo, tmp_path) -> Path:
    return Path(shutil.copytree(zoo.base("llama"), tmp_path / "base"))


@pytest.fixture
def adapter(zoo, tmp_path) -> Path:
    return Path(shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter"))


def test_weights_that_the_index_names_count(base):
    odd = base / "pytorch_model-00001-of-00001.safetensors"
    (base / "model.safetensors").rename(odd)
    names = load_file(odd)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, odd.name)}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    before = identity(base)
    names["model.norm.weight"] += 1
    save_file(names, odd, {"format": "pt"})
    assert identity(base) != before


def test_another_version_of_the_configuration_counts(base):
    config = json.loads((base / "config.json").read_text())
    (base / "config.4.0.0.json").write_text(json.dumps(config))
    config["configuration_files"] = ["config.4.0.0.json"]
    (base / "config.json").write_text(json.dumps(config))
    before = identity(base)
    changed = {**config, "rms_norm_eps": 0.1}
    (base / "config.4.0.0.json").write_text(json.dumps(changed))
    assert identity(base) != before


def test_code_beside_an_adapter_counts_where_it_may_run(base, adapter):
    (adapter / "tok.py").write_text("A = 1\n")
    free, safe = identity(base, adapter, trust_remote_code=True), identity(base, adapter)
    (adapter / "tok.py").write_text("A = 2\n")
    assert identity(base, adapter, trust_remote_code=True) != free
    assert identity(base, adapter) == safe


def test_zero_and_false_are_two_template_arguments(zoo, find_arguments, tmp_path):
    base = Path(shutil.copytree(zoo.base("llama"), tmp_path / "model"))
    words = tokenizer()
    words.chat_template = words.chat_template + "{% if think is false %} w9{% endif %}"
    words.save_pretrained(base)
    sibling = Path(shutil.copytree(base, tmp_path / "sibling"))
    random_model("llama", 1).save_pretrained(sibling)
    arguments = replaced(replaced(find_arguments, "--aligned", base), "--unaligned", sibling)
    run = ("--out", tmp_path / "run")
    assert invoke(*arguments, *run, "--template-arg", "think=0").exit_code == 0
    refused(invoke(*arguments, *run, "--template-arg", "think=false"), "template_args")


@pytest.mark.parametrize("text", ['{"eos_token_id": [2, 20', "", "[]"])
def test_a_torn_generation_config_is_told(base, text):
    (base / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match="could not be read"):
        identity(base)


@pytest.mark.parametrize("name", ["generation_config.json", "added_tokens.json"])
def test_settings_beside_an_adapter_that_are_not_read_are_told(base, adapter, name):
    (adapter / name).write_text("{}")
    (note,) = ModelPair.load(f"{base}+{adapter}", str(base), device="cpu").notes
    assert name in note


@pytest.mark.parametrize("option", ["--prompts", "--aligned", "--unaligned", "--template-from"])
def test_an_empty_option_is_no_default(find_arguments, tmp_path, option):
    arguments = list(find_arguments)
    if option in arguments:
        arguments = replaced(arguments, option, "")
    else:
        arguments += [option, ""]
    assert invoke(*arguments, "--out", tmp_path / "run").exit_code == 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="empty name"):
        Source.parse("")


@pytest.mark.parametrize("text", ["FALSE", "no", "off", "Yes", "tRue"])
def test_a_truth_that_a_template_would_take_for_a_text_is_refused(text):
    with pytest.raises(UserError, match="write true or false"):
        parse_template_args([f"enable_thinking={text}"])
    assert parse_template_args(["a=False", "b=true", 'c="no"']) == {
        "a": False,
        "b": True,
        "c": "no",
    }


def test_a_command_goes_on_with_smaller_batches(find_arguments, tmp_path):
    """What to do about too little memory must not be refused afterwards."""
    run = ("--out", tmp_path / "run")
    assert invoke(*find_arguments, *run).exit_code == 0
    assert invoke(*replaced(find_arguments, "--batch-size", 2), *run).exit_code == 0


def test_a_find_that_never_ended_binds_nobody(zoo, find_arguments, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("safety_neurons.methods.change_score.contrast", fail)
    refused(invoke(*find_arguments, "--out", run), "smaller --batch-size")
    monkeypatch.undo()
    other = replaced(find_arguments, "--aligned", zoo.source("llama", "lora"))
    assert invoke(*other, "--out", run).exit_code == 0


@pytest.mark.parametrize("made", ["fifo", "link to a folder"])
def test_what_is_no_file_is_not_replaced(tmp_path, made):
    place = tmp_path / "out.jsonl"
    if made == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"no ordinary file|is a folder"):
        require_place(place)


def test_a_link_is_written_through(tmp_path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "target.jsonl"
    rows.write_text('{"prompt": "Hi", "response": "Hello"}\n')
    out.write_text("old")
    (tmp_path / "link.jsonl").symlink_to(out)
    assert invoke("judge", rows, "--out", tmp_path / "link.jsonl").exit_code == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert "compliance" in out.read_text()


def test_judging_replaces_neither_its_input_nor_labels(tmp_path):
    rows, labelled = tmp_path / "rows.jsonl", tmp_path / "labelled.jsonl"
    rows.write_text('{"prompt": "Hi", "response": "Hello"}\n')
    labelled.write_text('{"prompt": "Hi", "response": "Hello", "verdict": "by a person"}\n')
    refused(invoke("judge", rows, "--out", rows), "is what is to be judged")
    refused(invoke("judge", labelled, "--out", tmp_path / "out.jsonl"), "column 'verdict' already")
    assert rows.read_text().count("verdict") == 0


def test_a_runs_own_files_are_no_place_for_others(tmp_path):
    run = RunFolder.begin(tmp_path / "run")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "response": "Hello"}\n')
    refused(invoke("judge", rows, "--out", run.file("manifest.json")), "a file of a run")


@pytest.mark.parametrize("text", ["NaN", "Infinity"])
def test_numbers_that_are_none_in_a_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(f'{{"format": 2, "stages": {{}}, "total": {text}}}')
    refused(invoke("report", tmp_path), "manifest.json")


@pytest.mark.parametrize(
    "models", [{"aligned": {"files": "x"}}, {"aligned": -1e300}, {"aligned": {"location": [1]}}]
)
def test_wrong_types_of_models_in_a_manifest(tmp_path, models):
    manifest = {"format": 2, "stages": {}, "models": models}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    refused(invoke("validate", tmp_path), "manifest.json")


def test_a_buffer_of_former_versions_is_told_and_no_obstacle(zoo, tmp_path):
    folder = Path(shutil.copytree(zoo.base("gpt2"), tmp_path / "gpt2"))
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.attn.masked_bias"] = tensors["transformer.ln_f.bias"][:1].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert identity(folder)


def test_several_templates_beside_an_adapter(base, adapter):
    templates = [{"name": "default", "template": "{{ messages[0]['content'] }} w7"}]
    (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    pair = ModelPair.load(f"{base}+{adapter}", f"{base}+{adapter}", device="cpu")
    assert pair.tokenizer.get_chat_template() == templates[0]["template"]


def test_a_layout_that_loads_and_does_not_run_is_told(zoo, tmp_path):
    folder = Path(shutil.copytree(zoo.base("qwen3"), tmp_path / "qwen3"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"layer_types": ["sliding_attention"] * 2, "sliding_window": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not run"):
        identity(folder)


def test_lines_of_commas_at_the_end_of_a_table(tmp_path, find_arguments):
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,category\nw9 w10 w11,a\nw12 w13 w14,b\n,\n,\n")
    arguments = replaced(find_arguments, "--prompts", file)
    assert invoke(*arguments, "--out", tmp_path / "run").exit_code == 0


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "safety_neurons", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )


def test_names_that_are_not_unicode_are_told_before_the_work(tmp_path):
    done = run("find", "--prompts", b"p\xff.jsonl", "--aligned", "a", "--unaligned", "b")
    assert done.returncode == 2
    assert "not in UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_of_few_characters(tmp_path):
    done = run("find", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_tears_nothing(second):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "safety_neurons", "run"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stderr:
        if "torch" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.send_signal(second)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.count("Stopped.") == 1
    assert "Traceback" not in said
