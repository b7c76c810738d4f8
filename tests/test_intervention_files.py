"""Interventions on disk: what is written is read again, and nothing else is taken for one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import torch

from safety_neurons.errors import UserError
from safety_neurons.interventions import (
    Ablate,
    Intervention,
    Patch,
    PatchMeans,
    Scale,
    load_interventions,
    save_interventions,
)
from safety_neurons.units import Block, BlockKey, SiteKind, UnitSet, UnitSpace, UnitValues

SPACE = UnitSpace(
    tuple(
        Block(BlockKey(n, site), 6) for n in range(2) for site in (SiteKind.MLP, SiteKind.ATTENTION)
    )
)
ONE, OTHER = UnitSet.of(torch.tensor([1, 7, 20]), SPACE), UnitSet.of(torch.tensor([0]), SPACE)
VALUES = UnitValues(torch.linspace(-1, 1, SPACE.total), SPACE, "means of somebody")
ALL = (
    Scale(ONE, 1.5),
    Ablate(OTHER),
    Ablate(ONE, VALUES),
    PatchMeans(OTHER, VALUES),
    Patch(ONE, 0.5),
)


def test_they_come_back_in_order_with_their_keys(tmp_path):
    save_interventions(ALL, tmp_path / "saved")
    read = load_interventions(tmp_path / "saved")
    assert [each.key for each in read] == [each.key for each in ALL]
    assert [each.describe() for each in read] == [each.describe() for each in ALL]
    assert [type(each) for each in read] == [type(each) for each in ALL]
    assert torch.equal(read[2].values.values[ONE.flat], VALUES.values[ONE.flat])
    assert load_interventions(save_interventions([], tmp_path / "none")) == ()


def test_keys_tell_what_differs_and_nothing_else():
    others = UnitValues(VALUES.values * 2, SPACE, "means of somebody")
    keys = [each.key for each in (*ALL, Scale(ONE, 2.0), Scale(OTHER, 1.5), Ablate(ONE, others))]
    assert len(set(keys)) == len(keys)
    elsewhere = VALUES.values.clone()
    elsewhere[5] = 9.0  # no unit of the set
    assert Ablate(ONE, UnitValues(elsewhere, SPACE, "x")).key == Ablate(ONE, VALUES).key


@dataclass(frozen=True)
class Own(Intervention):
    units: UnitSet
    more: dict = field(default_factory=dict)
    key = "own"

    def act(self, block, columns, own, donated):
        return own


@dataclass(frozen=True)
class Simple(Own):
    more: int = 1


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(UserError, match="dict in 'more'"):
        save_interventions([Own(ONE)], tmp_path / "a")
    with pytest.raises(UserError, match="not registered"):
        save_interventions([Simple(ONE)], tmp_path / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda row: row.update(format="x"), "its format is 'x'"),
        (lambda row: row["interventions"][0].update(intervention="magic"), "is no intervention"),
        (lambda row: row["interventions"][0]["arguments"].update(factor=2), "not the one"),
        (lambda row: row["interventions"][0]["arguments"].update(factor="x"), "save the"),
        (lambda row: row["interventions"].append({}), "save the"),
        (lambda row: row.pop("interventions"), "save the"),
    ],
)
def test_damage_is_told(tmp_path, damage, said):
    folder = save_interventions(ALL, tmp_path / "saved")
    record = json.loads((folder / "interventions.json").read_text())
    damage(record)
    (folder / "interventions.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=said):
        load_interventions(folder)


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no interventions"):
        load_interventions(tmp_path)
    folder = save_interventions(ALL, tmp_path / "saved")
    (folder / "interventions.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="save the interventions again"):
        load_interventions(folder)
