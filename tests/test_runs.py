"""Records of a run: one definition, written and read; what came before and what comes later."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from pydantic import ValidationError

from safety_neurons.errors import UserError, reading
from safety_neurons.runs import RunFolder, Summary, read_samples, read_summary
from safety_neurons.runs.manifest import FORMAT, Manifest
from safety_neurons.runs.summary import RATES, CurvePoint
from safety_neurons.storage import sha256_of
from tests.commands import invoke, refused

GOLDEN = Path(__file__).parent / "golden"
KEPT = ("run-format-1", "run-before-records")


@pytest.fixture(params=KEPT)
def kept(request, tmp_path) -> Path:
    return shutil.copytree(GOLDEN / request.param, tmp_path / request.param)


def test_the_commit_that_a_kept_run_was_made_at_is_named():
    """The last before records had types, by its hash."""
    manifest = RunFolder.open(GOLDEN / "run-before-records").manifest
    assert manifest.commit == "9405cd941c76a57b1ec7e7893cebf4e8bdee5d33"
    assert manifest.format == 2


def assert_kept(before: object, after: object) -> None:
    """Nothing of `before` is lost in `after`, and what was added says that it is not known."""
    if isinstance(before, dict):
        assert isinstance(after, dict)
        for name, value in before.items():
            assert_kept(value, after[name])
        assert not [name for name in after.keys() - before.keys() if after[name]]
    elif isinstance(before, list):
        assert isinstance(after, list)
        for one, other in zip(before, after, strict=True):
            assert_kept(one, other)
    else:
        assert after == before


def test_a_kept_run_opens_reports_and_compares(kept, whole_run):
    run = RunFolder.open(kept)
    summary = read_summary(run)
    assert summary.rankings
    assert set(summary.n90) == set(summary.rankings)
    assert len(read_samples(run)) == 13
    before = json.loads((kept / "summary.json").read_text())
    assert_kept(before, summary.written())
    done = invoke("report", kept)
    assert done.exit_code == 0, done.output
    assert (kept / "report.html").stat().st_size > 10_000
    done = invoke("report", kept, whole_run, "--out", kept / "both.html")
    assert done.exit_code == 0, done.output
    assert (kept / "both.html").stat().st_size > 10_000


def test_a_manifest_of_before_is_written_again_with_all_that_it_held(kept):
    before = json.loads((kept / "manifest.json").read_text())
    assert invoke("report", kept).exit_code == 0
    after = json.loads((kept / "manifest.json").read_text())
    del after["stages"]["report"]

    def held(content: object, was: object) -> bool:
        if isinstance(was, dict):
            return all(held(content[key], value) for key, value in was.items())
        return content == was

    assert held(after, before)


def test_a_run_of_before_there_were_sites_goes_on(
    find_arguments, validate_arguments, whole_run, tmp_path
):
    """As format 2 left it: neurons without a column or an option that says so."""
    old = Path(shutil.copytree(whole_run, tmp_path / "old"))
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["format"] = 2
    del manifest["stages"]["find"]["config"]["sites"], manifest["neurons"]["blocks"]
    table = parquet.read_table(old / "neurons.parquet")
    parquet.write_table(table.drop_columns(["site"]), old / "neurons.parquet")
    results = manifest["stages"]["find"]["results"]
    results["neurons.parquet"] = sha256_of(old / "neurons.parquet")
    (old / "manifest.json").write_text(json.dumps(manifest))
    stamp = (old / "neurons.parquet").stat().st_mtime_ns
    done = invoke(*find_arguments, "--out", old)
    assert done.exit_code == 0, done.output
    assert (old / "neurons.parquet").stat().st_mtime_ns == stamp
    done = invoke("validate", old, *validate_arguments)
    assert done.exit_code == 0, done.output
    found, expected = (json.loads((r / "summary.json").read_text()) for r in (old, whole_run))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    other = invoke(*find_arguments, "--site", "attention", "--out", old)
    refused(other, "a run with other sites")


def test_what_is_written_is_what_is_read(whole_run):
    run = RunFolder.open(whole_run)
    text = (whole_run / "manifest.json").read_text()
    assert run.manifest.format == FORMAT
    assert json.loads(text) == run.manifest.written()
    assert Manifest.parsed(text) == run.manifest
    summary = read_summary(run)
    assert Summary.parsed(json.dumps(summary.written())) == summary
    assert json.loads((whole_run / "summary.json").read_text()) == summary.written()
    rows = [json.loads(line) for line in (whole_run / "samples.jsonl").read_text().splitlines()]
    assert [row.written() for row in read_samples(run)] == rows


def test_the_blocks_of_a_run_are_named_by_their_modules(whole_run):
    units = RunFolder.open(whole_run).manifest.units
    assert [(b.layer, b.site, b.width, b.module) for b in units.blocks] == [
        (i, "mlp", 24, f"model.layers.{i}.mlp.down_proj") for i in (0, 1)
    ]
    assert units.total == 48
    assert units.layers == 2


def test_fields_of_a_later_version_are_passed_over_and_kept(whole_run, tmp_path):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    summary = json.loads((run / "summary.json").read_text())
    text = json.dumps({**summary, "fluency": {"entropy": 3}})
    assert Summary.parsed(text) == Summary.parsed(json.dumps(summary))
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "signed_by": "someone"}))
    assert invoke("report", run).exit_code == 0
    assert json.loads((run / "manifest.json").read_text())["signed_by"] == "someone"


def test_a_run_of_a_later_version_is_told_before_its_fields(tmp_path):
    (tmp_path / "manifest.json").write_text(f'{{"format": {FORMAT + 1}, "stages": "new"}}')
    refused(invoke("report", tmp_path), "a later version")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_figures_are_finite(number):
    point = {"ranking": "a", "split": "test", "share": 0.1, "k": 1, "n": 8, "unscored": 0}
    more = {"ci_low": None, "ci_high": None, "refusal_rate": 0.5}
    assert CurvePoint(**point, **more, causal_effect=None).interval is None
    with pytest.raises(ValidationError):
        CurvePoint(**point, **more, causal_effect=number)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("ceiling",), "high"),
        (("curve", 0, "share"), None),
        (("aligned", "details", "refusal_rate", "n"), "many"),
        (("chosen",), []),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(whole_run, place, wrong):
    summary = json.loads((whole_run / "summary.json").read_text())
    *path, last = place
    inside = summary
    for step in path:
        inside = inside[step]
    inside[last] = wrong
    with (
        pytest.raises(UserError, match=rf"{'.'.join(map(str, place))}: .*\); make it again"),
        reading("summary.json", remedy="make it again"),
    ):
        Summary.parsed(json.dumps(summary))


@pytest.mark.parametrize("name", RATES)
def test_a_summary_that_lacks_a_rate_is_damaged(whole_run, name):
    summary = json.loads((whole_run / "summary.json").read_text())
    del summary["aligned"]["details"][name]
    with pytest.raises(ValidationError, match=f"{name} missing"):
        Summary.parsed(json.dumps(summary))
