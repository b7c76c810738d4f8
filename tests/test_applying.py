"""Amplified models as checkpoints, and back: baked equals live, undo equals before."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, decode
from safety_neurons.interventions import Scale, Transplant
from safety_neurons.judges import Verdict
from safety_neurons.models import LoadedModel
from safety_neurons.models.exporting import Edited, export
from safety_neurons.models.sources import Source, resolve
from safety_neurons.runs import RunFolder
from safety_neurons.studies.applying import (
    ApplyOptions,
    apply_scale,
    apply_scale_to,
    apply_transplant,
    undo,
    writing,
)
from safety_neurons.studies.applying.record import UNDO, Kept
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.sets import top_units
from safety_neurons.units import UnitSet, UnitSpace
from tests.commands import invoke, refused
from tests.tiny import ARCHITECTURES, PARTS, prompts, words

DECODING = Decoding(4, 8)
ASKED = words("asked", 9)


class Always:
    """Everything is a refusal, or nothing that was answered after the first `until` answers."""

    name = "always-1"

    def __init__(self, until: int = 10**9) -> None:
        self.until = until

    def __call__(self, asked, responses):
        found = [
            Verdict.REFUSAL if i < self.until else Verdict.COMPLIANCE for i in range(len(responses))
        ]
        self.until -= len(responses)
        return found


@pytest.fixture(scope="module")
def run_of(zoo, tmp_path_factory):
    """Runs on tiny pairs, made once each."""
    made = {}

    def of(architecture: str, kind: str) -> RunFolder:
        if (architecture, kind) not in made:
            pair = zoo.pair(zoo.source(architecture, kind), zoo.source(architecture, None))
            options = FindOptions(("change-score",), decoding=DECODING)
            folder = tmp_path_factory.mktemp("runs") / "run"
            made[architecture, kind] = find(pair, folder, words("found", 3), options)
        return made[architecture, kind]

    return of


def applied(run: RunFolder, out, scale: float = 2.5, **more):
    return apply_scale(run, out, scale, 0.4, options=options_with(**more))


def options_with(**more) -> ApplyOptions:
    options = {"prompts": ASKED, "judge": Always(), "decoding": DECODING, "device": "cpu", **more}
    return ApplyOptions(**options)


@pytest.mark.parametrize("kind", ["ia3", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_written_does_what_the_live_model_does(
    zoo, run_of, architecture, kind, tmp_path, monkeypatch
):
    # Random models may answer nothing at all when they are amplified, which is no refusal.
    monkeypatch.setattr(writing.Job, "_refusals", lambda *_: None)
    run, source = run_of(architecture, kind), zoo.source(architecture, kind)
    done = applied(run, tmp_path / "out")
    assert done.record.difference < 1e-9
    model = LoadedModel.load(source, dtype=torch.float64, device="cpu")
    setting = Setting(interventions=(Scale(top_units(run, 0.4), 2.5),))
    (live, as_it_is) = decode(model, prompts(), [setting, Setting()], max_new_tokens=6)
    written = LoadedModel.load(str(done.folder), dtype=torch.float64, device="cpu")
    assert decode(written, prompts(), [Setting()], max_new_tokens=6) == [live]
    assert live != as_it_is
    AutoModelForCausalLM.from_pretrained(done.folder)  # and transformers alone reads it
    merged = export(resolve(Source.parse(source)), tmp_path / "merged")
    back = undo(done.folder, tmp_path / "back")
    for file in merged.glob("*.safetensors"):
        wanted, found = load_file(file), load_file(back / file.name)
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    left = {file.name for file in back.iterdir()}
    assert left == {file.name for file in merged.iterdir()}


def test_a_scale_of_1_is_the_merged_model(zoo, run_of, tmp_path):
    done = applied(run_of("llama", "ia3"), tmp_path / "out", 1.0)
    assert done.record.refusals is None
    assert done.record.tensors == []
    merged = export(resolve(Source.parse(zoo.source("llama", "ia3"))), tmp_path / "merged")
    name = "model.safetensors"
    assert (done.folder / name).read_bytes() == (merged / name).read_bytes()
    undone = undo(done.folder, tmp_path / "back")
    assert (undone / name).read_bytes() == (merged / name).read_bytes()


def test_what_was_done_stands_beside_it(run_of, tmp_path, monkeypatch):
    run = run_of("llama", "ia3")
    measured = {"before": 0.5, "after": 0.75, "n": 12}
    monkeypatch.setattr(writing.Job, "_refusals", lambda *_: measured)
    done = applied(run, tmp_path / "out", command="apply something")
    record = json.loads((done.folder / "intervention.json").read_text())
    assert record["intervention"] == {
        "intervention": "scale",
        "units": len(top_units(run, 0.4)),
        "factor": 2.5,
    }
    assert sum(map(len, record["units"].values())) == len(top_units(run, 0.4))
    assert record["command"] == "apply something"
    card = (done.folder / "README.md").read_text()
    assert "multiplied by 2.5" in card
    assert "50 % before, 75 % after (of 12)" in card
    assert record["refusals"] == measured


def test_a_drop_in_refusals_is_refused_and_nothing_is_written(run_of, tmp_path):
    with pytest.raises(UserError, match=r"refuses 0 % of 12 .* refused 100 %"):
        applied(run_of("llama", "ia3"), tmp_path / "out", judge=Always(until=12))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [0.5, -2.0, float("nan"), float("inf")])
def test_only_strengthening_is_written(run_of, tmp_path, scale):
    with pytest.raises(UserError, match="Scales of 1 or more"):
        applied(run_of("llama", "ia3"), tmp_path / "out", scale)


def test_undo_belongs_to_its_weights(run_of, tmp_path):
    done = applied(run_of("llama", "ia3"), tmp_path / "out")
    with pytest.raises(UserError, match="exists already"):
        undo(done.folder, done.folder)
    with pytest.raises(UserError, match="not written by apply"):
        undo(tmp_path, tmp_path / "back")
    other = shutil.copytree(done.folder, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = done.record.tensors[0].name
    save_file({**tensors, name: tensors[name] + 1}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="is not what was written"):
        undo(other, tmp_path / "back")
    kept = load_file(done.folder / "undo.safetensors")
    kept[f"{name}/slices"] += 1
    save_file(kept, done.folder / "undo.safetensors")
    with pytest.raises(UserError, match="does not give"):
        undo(done.folder, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_the_commands(whole_run, tmp_path):
    run = shutil.copytree(whole_run, tmp_path / "run")
    one = ["--share", "0.1", "--device", "cpu"]
    out, back = tmp_path / "out", tmp_path / "back"
    said = invoke("apply", run, "--scale", "1", *one, "--out", out)
    assert said.exit_code == 0, said.output
    assert "Written" in said.output
    refused(invoke("apply", run, "--scale", "1", *one, "--out", out), "exists already")
    refused(invoke("apply", run, "--scale", "0.5", *one, "--out", tmp_path / "x"), "1 or more")
    said = invoke("undo", out, "--out", back)
    assert said.exit_code == 0, said.output
    refused(invoke("undo", tmp_path, "--out", tmp_path / "x"), "not written by apply")


# Transplants, and one model alone.


@pytest.mark.parametrize("kind", ["ia3", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_transplant_that_is_written_does_what_the_live_one_does(
    zoo, run_of, architecture, kind, tmp_path, monkeypatch
):
    """Into the unaligned base, and into another adapter's model; and back, bit for bit."""
    monkeypatch.setattr(writing.Job, "_refusals", lambda *_: None)
    run = run_of(architecture, kind)
    units = top_units(run, 0.4)
    for name in (None, "lora" if kind == "ia3" else "ia3"):
        source = zoo.source(architecture, name)
        out = tmp_path / f"out-{name}"
        done = apply_transplant(run, source, out, 0.4, options=options_with())
        assert done.record.difference < 1e-9
        donor, recipient = (
            LoadedModel.load(of, dtype=torch.float64, device="cpu")
            for of in (zoo.source(architecture, kind), source)
        )
        transplant = Transplant.between(donor.hooked, recipient.hooked, units)
        setting = Setting(interventions=(transplant,))
        (live,) = decode(recipient, prompts(), [setting], max_new_tokens=6)
        written = LoadedModel.load(str(out), dtype=torch.float64, device="cpu")
        assert decode(written, prompts(), [Setting()], max_new_tokens=6) == [live]
        merged = export(resolve(Source.parse(source)), tmp_path / f"merged-{name}")
        back = undo(out, tmp_path / f"back-{name}")
        for file in merged.glob("*.safetensors"):
            wanted, found = load_file(file), load_file(back / file.name)
            assert wanted.keys() == found.keys()
            assert all(torch.equal(wanted[key], found[key]) for key in wanted)
        assert "weights of" in (out / "README.md").read_text()
        if (kind, name) == ("ia3", None):  # its adapter changes the columns out of them alone
            down = PARTS[architecture]["down"]
            assert all(down in tensor.name for tensor in done.record.tensors)
            kept = load_file(out / "undo.safetensors")
            columns = sum(t.numel() for n, t in kept.items() if n.endswith("/index"))
            assert columns <= len(units)
        assert done.record.donor["source"] == zoo.source(architecture, kind)


def test_a_transplant_that_changes_nothing_or_cannot_be_is_refused(zoo, run_of, tmp_path):
    run, out = run_of("llama", "ia3"), tmp_path / "out"
    own = zoo.source("llama", "ia3")
    with pytest.raises(UserError, match="change nothing"):
        apply_transplant(run, own, out, 0.4, options=options_with())
    with pytest.raises(UserError, match="other shapes"):
        apply_transplant(run, str(zoo.base("gpt2")), out, 0.4, options=options_with())
    base, falling = zoo.source("llama", None), options_with(judge=Always(until=12))
    with pytest.raises(UserError, match=r"transplanted the model refuses 0 % of 12"):
        apply_transplant(run, base, out, 0.4, options=falling)
    assert not list(tmp_path.iterdir())


def test_one_model_alone_with_a_set(zoo, run_of, tmp_path):
    run = run_of("llama", "ia3")
    units = top_units(run, 0.4)
    ways = [
        applied(run, tmp_path / "run"),
        apply_scale_to(zoo.source("llama", "ia3"), units, tmp_path / "alone", 2.5, options_with()),
    ]
    of_both = [(way.folder / "model.safetensors").read_bytes() for way in ways]
    assert of_both[0] == of_both[1]
    other = UnitSet.of(torch.tensor([0]), UnitSpace.neurons((7, 7)))
    with pytest.raises(UserError, match="differently shaped"):
        apply_scale_to(str(zoo.base("llama")), other, tmp_path / "x", 2.0, options_with())


def test_the_command_says_one_thing(whole_run, zoo, tmp_path):
    out = ["--out", tmp_path / "out", "--device", "cpu"]
    base = zoo.source("llama", None)
    refused(invoke("apply", whole_run, *out), "not both")
    refused(invoke("apply", whole_run, "--scale", 2, "--transplant", *out), "not both")
    refused(invoke("apply", whole_run, "--transplant", *out), "--share")
    refused(invoke("apply", whole_run, "--transplant", "--share", 0.1, *out), "--model")
    refused(invoke("apply", "--transplant", *out), "name a run")
    refused(invoke("apply", "--scale", 2, *out), "Name a run folder")
    refused(invoke("apply", whole_run, "--scale", 2, "--set", tmp_path, *out), "--set is for")
    refused(
        invoke("apply", whole_run, "--scale", 2, "--share", 0.1, "--model", base, *out),
        "goes with --transplant",
    )
    refused(
        invoke("apply", "--scale", 2, "--model", base, "--set", tmp_path, *out), "no saved unit set"
    )
    refused(
        invoke("apply", "--scale", 2, "--share", 1, "--model", base, "--set", tmp_path, *out),
        "taken whole",
    )
    # Set and model on the command line.
    assert invoke("save-set", whole_run, "--share", 0.2, "--out", tmp_path / "set").exit_code == 0
    aligned = zoo.source("llama", "ia3")
    said = invoke(
        "apply",
        "--scale",
        1,
        "--model",
        aligned,
        "--set",
        tmp_path / "set",
        *out,
    )
    assert said.exit_code == 0, said.output
    said = invoke(
        "apply",
        whole_run,
        "--transplant",
        "--share",
        0.2,
        "--model",
        base,
        "--out",
        tmp_path / "given",
        "--limit",
        4,
        "--max-new-tokens",
        4,
        "--device",
        "cpu",
    )
    assert said.exit_code == 0, said.output
    record = json.loads((tmp_path / "given" / "intervention.json").read_text())
    assert record["intervention"]["intervention"] == "transplant"
    assert invoke("undo", tmp_path / "given", "--out", tmp_path / "back").exit_code == 0


def test_a_zero_that_changed_its_sign_is_put_back(tmp_path):
    before = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    after = torch.tensor([[-0.0, 1.0], [2.0, 3.0]])
    kept = Kept()
    kept.add(Edited("w", "w", "model.safetensors", before, after), torch.tensor([0, 1]), 0)
    kept.write(tmp_path)
    slices = load_file(tmp_path / UNDO)
    assert slices["w/index"].tolist() == [0]
