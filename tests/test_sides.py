"""Sides that are the same model, or that look swapped, are said before the work begins."""

from __future__ import annotations

import json
import shutil

import pytest

from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding
from safety_neurons.models import ModelPair
from safety_neurons.prompts import ChatFormat
from safety_neurons.runs import RunFolder
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.finding.sides import doubts
from tests import planted
from tests.commands import invoke, refused

DECODING = Decoding(8, 24)


@pytest.fixture(scope="module")
def of(tmp_path_factory) -> planted.Planted:
    return planted.plant(tmp_path_factory.mktemp("sides"), 1)


def said(aligned, unaligned) -> list[str]:
    pair = ModelPair.load(str(aligned), str(unaligned), device="cpu")
    return doubts(pair, planted.prompts(1, "find")[0], DECODING, ChatFormat())


def test_swapped_sides_are_said_and_right_ones_are_not(of):
    assert said(of.aligned, of.unaligned) == []
    (swapped,) = said(of.unaligned, of.aligned)
    assert "look swapped: of 8 harmful prompts the model given as aligned refuses 0" in swapped
    assert "unaligned 8" in swapped


def test_a_pair_that_refuses_nothing_is_said(of):
    other = shutil.copytree(of.unaligned, of.unaligned.parent / "other")
    config = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps({**config, "max_length": 99}))
    (doubt,) = said(of.unaligned, other)
    assert "no refusals to find" in doubt


def test_a_doubt_stays_with_the_run(of, tmp_path):
    pair = ModelPair.load(str(of.unaligned), str(of.aligned), device="cpu")
    harmful, harmless = planted.prompts(1, "find")
    options = FindOptions(rankings=("change-score",), decoding=DECODING)
    find(pair, tmp_path / "run", harmful, options, harmless=harmless)
    notes = RunFolder.open(tmp_path / "run").manifest.notes
    assert any("look swapped" in note for note in notes)


def test_the_same_model_twice_is_refused_also_under_two_names(of, tmp_path):
    copy = shutil.copytree(of.aligned, tmp_path / "copy")
    pair = ModelPair.load(str(of.aligned), str(copy), device="cpu")
    with pytest.raises(UserError, match="same model"):
        find(pair, tmp_path / "run", planted.prompts(1, "find")[0], FindOptions())
    assert not (tmp_path / "run").exists()
    arguments = ("--aligned", of.aligned, "--unaligned", of.aligned, "--out", tmp_path / "run")
    refused(invoke("find", *arguments), "Both sides")
