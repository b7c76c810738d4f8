"""Saved sets of units: what comes back, what the card says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from safety_neurons.errors import UserError
from safety_neurons.units import (
    Block,
    BlockKey,
    SiteKind,
    UnitSet,
    UnitSpace,
    load_set,
    save_set,
)
from tests.commands import invoke, refused

ATTENTION = SiteKind.ATTENTION
SPACE = UnitSpace((Block(BlockKey(0, ATTENTION), 4), Block(BlockKey(0), 6), Block(BlockKey(1), 10)))
MODULES = {
    BlockKey(0, ATTENTION): "model.layers.0.self_attn.o_proj",
    BlockKey(0): "model.layers.0.mlp.down_proj",
    BlockKey(1): "model.layers.1.mlp.down_proj",
}
MODELS = {"aligned": {"source": "owner/name", "revision": "abc", "files": {"a": "0" * 64}}}


def some(*flat: int, **provenance: object) -> UnitSet:
    return UnitSet.of(torch.tensor(flat, dtype=torch.long), SPACE, **provenance)


def test_saved_sets_come_back(tmp_path):
    kept = some(3, 4, 17, ranking="change-score", share=0.1, of=None)
    save_set(kept, tmp_path / "set")
    found = load_set(tmp_path / "set")
    assert found.units == kept
    assert found.units.space == SPACE
    assert found.units.provenance == {"ranking": "change-score", "share": 0.1, "of": None}
    assert found.means == {}
    save_set(some(), tmp_path / "empty")
    assert load_set(tmp_path / "empty").units == some()


def test_a_card_names_units_for_people_and_other_tools(tmp_path):
    command = "safety-neurons find --aligned a"
    save_set(some(1, 5, 12), tmp_path, modules=MODULES, models=MODELS, command=command)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["models"] == MODELS
    assert card["command"] == command
    assert card["size"] == 3
    assert card["total"] == 20
    assert card["environment"]["packages"]["torch"]
    named = [(b["module"], b["transformer_lens"], b["units"]) for b in card["blocks"]]
    assert named == [
        ("model.layers.0.self_attn.o_proj", None, [1]),
        ("model.layers.0.mlp.down_proj", "blocks.0.mlp.hook_post", [1]),
        ("model.layers.1.mlp.down_proj", "blocks.1.mlp.hook_post", [2]),
    ]
    with safe_open(tmp_path / "units.safetensors", "pt") as file:
        assert file.get_tensor("flat").tolist() == [1, 5, 12]


def test_means_hold_for_the_form_they_were_recorded_on(tmp_path):
    kept, means = some(3, 17), {"aligned": torch.tensor([0.5, -1.0])}
    save_set(kept, tmp_path, means=means, form="as adapter")
    found = load_set(tmp_path)
    assert found.means_on("as adapter")["aligned"].tolist() == [0.5, -1.0]
    with pytest.raises(UserError, match="another form of these models"):
        found.means_on("merged")
    assert found.units == kept  # coordinates hold for any form
    with pytest.raises(UserError, match="say which"):
        save_set(kept, tmp_path / "formless", means=means)
    with pytest.raises(UserError, match="2 means for 3 units"):
        save_set(some(1, 2, 3), tmp_path / "short", means=means, form="as adapter")
    assert not (tmp_path / "formless").exists()


def test_what_is_no_saved_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="no saved unit set"):
        load_set(tmp_path / "nothing")
    save_set(some(3), tmp_path / "one")
    save_set(some(4), tmp_path / "other")
    (tmp_path / "one/card.json").replace(tmp_path / "other/card.json")
    with pytest.raises(UserError, match="different sets"):
        load_set(tmp_path / "other")


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"format": "safety-neurons/unit-set/9"}'])
def test_a_damaged_card_is_told(tmp_path, damage):
    save_set(some(3), tmp_path)
    (tmp_path / "card.json").write_text(damage)
    with pytest.raises(UserError, match=r"card\.json.*could not be read"):
        load_set(tmp_path)


def test_a_card_that_was_edited_is_told(tmp_path):
    """People read cards, and may change one; what acts are the tensors."""
    save_set(some(3), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    card["blocks"][0]["units"] = [2]
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="different sets"):
        load_set(tmp_path)


@pytest.mark.parametrize("flat", [[-1], [20], [4], [0.5]])
def test_tensors_that_are_no_positions_are_told(tmp_path, flat):
    save_set(some(3), tmp_path)
    save_file({"flat": torch.tensor(flat)}, tmp_path / "units.safetensors")
    with pytest.raises(UserError):
        load_set(tmp_path)


def test_a_field_of_a_later_version_is_no_obstacle(tmp_path):
    save_set(some(3), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**card, "licence": "none"}))
    assert load_set(tmp_path).units == some(3)


def test_keys_tell_spaces_and_sets_apart():
    neurons = UnitSpace.neurons((20,))
    keys = {
        some(3).key,
        some(4).key,
        some(3, 4).key,
        UnitSet.of(torch.tensor([3]), neurons).key,
        some().key,
    }
    assert len(keys) == 5
    assert some(4, 3, 3, ranking="a").key == some(3, 4).key


def test_the_command_saves_the_top_of_a_run(whole_run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "save-set", str(whole_run), "--share", "0.25"])
    done = invoke("save-set", whole_run, "--share", 0.25, "--out", tmp_path / "set")
    assert done.exit_code == 0, done.output
    saved = load_set(tmp_path / "set")
    table = parquet.read_table(whole_run / "neurons.parquet").to_pylist()
    top = sorted(table, key=lambda row: row["rank"])[:12]
    assert set(saved.units.names) == {f"L{row['layer']}.N{row['neuron']}" for row in top}
    assert saved.card.command == f"safety-neurons save-set {whole_run} --share 0.25"
    assert [b.module for b in saved.card.blocks] == [
        f"model.layers.{i}.mlp.down_proj" for i in (0, 1)
    ]
    means = saved.means_on(saved.card.form)
    by_name = {f"L{row['layer']}.N{row['neuron']}": row for row in table}
    for name, mean in zip(saved.units.names, means["aligned"].tolist(), strict=True):
        assert mean == by_name[name]["mean_aligned"]


def test_wrong_arguments_of_the_command(whole_run, tmp_path):
    out = ("--out", tmp_path / "set")
    refused(invoke("save-set", whole_run, "--share", 0, *out), "no neuron at all")
    refused(invoke("save-set", whole_run, "--share", 2, *out), "0 to 1")
    refused(invoke("save-set", whole_run, "--share", 1, "--ranking", "x", *out), "change-score")
    refused(invoke("save-set", tmp_path, "--share", 1, *out), "no run folder")
    inside_a_file = ("--out", whole_run / "manifest.json" / "x")
    refused(invoke("save-set", whole_run, "--share", 1, *inside_a_file), "written")
    old = Path(__file__).parent / "golden" / "run-format-1"
    refused(invoke("save-set", old, "--share", 1, *out), "earlier version")
    assert not (tmp_path / "set").exists()


def test_a_folder_that_holds_something_else_is_left_alone(whole_run, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    refused(invoke("save-set", whole_run, "--share", 1, "--out", tmp_path), "no saved unit set")
    refused(invoke("save-set", whole_run, "--share", 1, "--out", whole_run), "no saved unit set")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
