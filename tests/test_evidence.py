"""`make evidence`: what is planned, what is skipped, what a failure says, what is collected."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from evidence import collect, pieces, run
from evidence.pairs import PAIRS
from evidence.stages import Stage, _complete, _prepare

from safety_neurons.cli.align import command as align
from safety_neurons.runs import Summary


def test_adapters_are_trained_first_and_stability_comes_last(tmp_path):
    names = [stage.name for stage in run._planned(tmp_path, [pair.name for pair in PAIRS])]
    shipped = [pair.name for pair in PAIRS if pair.shipped]
    assert names[-len(shipped) :] == [f"{name}: stability" for name in shipped]
    for pair in PAIRS:
        own = [name.split(": ")[1] for name in names if name.startswith(f"{pair.name}: ")]
        assert own[0] == ("find" if pair.shipped else "train")
        assert own.index("find") < own.index("validate")
        assert ("confirm" in own) == pair.shipped
    assert align.__doc__  # whose options the training of a pair names


def test_unknown_pairs_are_said(tmp_path):
    with pytest.raises(SystemExit, match="lora-seed1"):
        list(run._planned(tmp_path, ["magic"]))


def test_a_failed_piece_says_where_to_look(tmp_path, monkeypatch):
    stage = Stage("bad", ("no-such-command",), lambda: False)
    with pytest.raises(SystemExit, match="'bad' ended with 2"):
        run._piece(stage, tmp_path)
    assert "no-such-command" in (tmp_path / "log.txt").read_text()


def test_a_piece_that_takes_too_long_is_stopped_and_may_go_on(tmp_path, monkeypatch):
    asleep = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(130)); time.sleep(60)"
    monkeypatch.setattr(pieces, "PIECE", 1)
    monkeypatch.setattr(run, "COMMAND", (sys.executable, "-c", asleep))
    run._piece(Stage("slow", (), lambda: False), tmp_path)


def summary_n(content: dict) -> int:
    return next(row["n"] for row in content["pairs"]["lora"]["curve"] if row["split"] == "test")


def test_what_stands_is_collected(whole_run, tmp_path, monkeypatch):
    out, docs = tmp_path / "runs", tmp_path / "docs"
    out.mkdir()
    docs.mkdir()
    page = docs / "evidence.md"
    page.write_text("Before.\n<!-- tables: begin -->\nold\n<!-- tables: end -->\nAfter.\n")
    for name, value in {"PAGE": page, "FOLDER": docs / "evidence"}.items():
        monkeypatch.setattr(collect, name, value)
    shutil.copytree(whole_run, out / "lora")
    shutil.copytree(whole_run, out / "lora-confirm")
    content = json.loads(collect.collect(out).read_text())
    assert set(content["pairs"]) == {"lora"}
    assert Summary.model_validate(content["pairs"]["lora"]).rankings[0] == "path-attribution"
    assert set(content["confirm"]) == {"lora"}
    assert content["others"] == {}
    text = page.read_text()
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert "| 5 % |" in text
    glance = text[text.index("At a glance") : text.index("### `lora`")]
    rows = [line.split(" | ")[1] for line in glance.splitlines() if line.startswith("| `lora`")]
    n = summary_n(content)
    assert rows == [f"`test`, {n}", f"`confirm`, {n}"]
    assert (docs / "evidence/lora.svg").read_text().startswith("<svg")


def test_a_copied_run_is_validated_again(whole_run, tmp_path):
    """Its manifest says that it was, but it has no summary: neither done nor collected."""
    copy = tmp_path / "lora-confirm"
    _prepare(whole_run, copy, tmp_path)
    assert _complete(whole_run, "validate")()
    assert not _complete(copy, "validate")()
    assert collect._validated(copy) is None


def test_where_no_run_stands_nothing_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "FOLDER", tmp_path / "docs")
    with pytest.raises(SystemExit, match="Nothing was collected"):
        collect.collect(tmp_path)
    assert not (tmp_path / "docs").exists()
