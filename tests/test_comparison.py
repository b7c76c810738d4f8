"""Runs side by side: what differs, what agrees, and what cannot be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from safety_neurons.cli import app
from safety_neurons.errors import UserError
from safety_neurons.report import render_comparison
from safety_neurons.runs import RunFolder
from safety_neurons.runs.manifest import ChatRecord
from safety_neurons.units import Ranking, UnitSet, UnitSpace, write_table
from safety_neurons.units.overlap import iou, iou_by_chance, rank_correlation
from tests.test_report import MIXED, SCRIPT, fabricate, kept, plain, samples, summary

SPACE = UnitSpace.neurons((4, 6))


def ranking(*scores: float) -> Ranking:
    return Ranking("attribution", torch.tensor(scores), SPACE)


def test_overlap_by_hand():
    one, other = (UnitSet.of(torch.tensor(flat), SPACE) for flat in ([0, 1, 2, 3], [2, 3, 9]))
    assert iou(one, other) == 2 / 5
    assert iou(one, one) == 1
    empty = UnitSet.of(torch.empty(0), SPACE)
    assert iou(empty, empty) is None
    # Two random halves of 10: 2.5 in common, 7.5 in the union.
    assert iou_by_chance(5, 5, 10) == pytest.approx(1 / 3)


def test_chance_is_what_random_sets_have():
    space = UnitSpace.neurons((400, 600))
    generator = torch.Generator().manual_seed(0)

    def drawn(k: int) -> UnitSet:
        return UnitSet.of(torch.randperm(1000, generator=generator)[:k], space)

    found = [iou(drawn(100), drawn(300)) for _ in range(200)]
    assert sum(found) / len(found) == pytest.approx(iou_by_chance(100, 300, 1000), abs=0.005)


def test_rank_correlation_by_hand():
    up = ranking(*(float(i) for i in range(10)))
    down = ranking(*(float(-i) for i in range(10)))
    assert rank_correlation(up, up) == pytest.approx(1)
    assert rank_correlation(up, down) == pytest.approx(-1)
    # Two neighbours exchanged: 1 − 6·Σd² ÷ (n(n² − 1)), Σd² = 2.
    swapped = ranking(1.0, 0.0, *(float(i) for i in range(2, 10)))
    assert rank_correlation(up, swapped) == pytest.approx(1 - 12 / 990)


@pytest.fixture
def runs(tmp_path) -> list[RunFolder]:
    other = summary(effect=0.4)
    other["judge"] = "another-judge"
    return [
        fabricate(tmp_path / "one/run", summary(), samples()),
        fabricate(tmp_path / "two/run", other, samples()),
    ]


def page_of(runs: list[RunFolder], tmp_path: Path) -> str:
    return render_comparison(runs, tmp_path / "out/page.html").read_text()


def test_runs_stand_side_by_side(runs, tmp_path):
    page = page_of(runs, tmp_path)
    assert "one/run" in page  # two folders named `run` are told apart
    assert "two/run" in page
    assert page.count('class="conclusion"') == 2
    assert "87" in page
    assert "40" in page
    assert "another-judge" in page
    assert "<script" not in page
    assert SCRIPT not in page
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")


def test_what_was_the_same_is_not_listed_as_different(runs, tmp_path):
    differences = page_of(runs, tmp_path).split('id="differences"')[1].split("</section>")[0]
    assert "judge" in differences
    assert "max new tokens" not in differences
    same = [runs[0], fabricate(tmp_path / "three", summary(), samples())]
    assert "Nothing that is recorded" in page_of(same, tmp_path)


def test_digests_are_folded(tmp_path):
    both = [kept("run-before-records", tmp_path), kept("run-format-1", tmp_path)]
    differences = page_of(both, tmp_path).split('id="differences"')[1].split("</section>")[0]
    folded = differences[differences.index("<details") :] if "<details" in differences else ""
    assert "sha256" in folded
    assert "sha256" not in differences.replace(folded, "")


def different(page: str) -> dict[str, list[str]]:
    """What the page lists as done differently, by option."""
    table = page.split('id="differences"')[1].split("</section>")[0]
    rows = re.findall(r'<th scope="row"[^>]*>(.*?)</th>(.*)</tr>', table)
    return {name: re.findall(r'<td class="n">(.*?)</td>', cells) for name, cells in rows}


def test_runs_of_earlier_versions_compare(tmp_path):
    found = different(
        page_of([kept("run-before-records", tmp_path), kept("run-format-1", tmp_path)], tmp_path)
    )
    assert found["find: device"] == ["cpu", "not recorded"]
    assert found["find: prompts.sha256"] == ["f766c60bb99175aa", "1b0af8ec9cb4a2cd"]
    assert found["models.aligned.revision"] == ["local:cf11f107d6f2", "local:d6e29a5dfc4d"]
    assert found["models.aligned.files.config.json"][1] == "not recorded"
    # What the earlier one has no key for, and the later one has as none.
    assert "find: template from" not in found
    assert "models.aligned.files" not in found
    assert not any({"None", "none"} & set(values) for values in found.values())


def test_a_run_from_before_sites_were_chosen_has_the_default(tmp_path):
    old, new = kept("run-before-records", tmp_path), kept("run-format-1", tmp_path)
    config = {**new.config("find"), "sites": ["mlp", "attention"]}
    new.manifest.stages["find"] = new.manifest.stages["find"].model_copy(update={"config": config})
    new.record()
    assert different(page_of([old, new], tmp_path))["find: sites"] == ["mlp", "mlp, attention"]


def test_none_is_told_from_something(runs, tmp_path):
    for run, prompt in zip(runs, (None, "Be kind."), strict=True):
        run.record(chat=ChatRecord(system_prompt=prompt))
    assert different(page_of(runs, tmp_path))["chat.system prompt"] == ["none", "Be kind."]


def test_runs_of_several_sites_speak_of_units(runs, tmp_path):
    page = plain(page_of(runs, tmp_path))
    assert "Common neurons" in page
    assert "all neurons: the ceiling" in page
    mixed = fabricate(tmp_path / "mixed", summary(), samples(), MIXED)
    page = plain(page_of([runs[0], mixed], tmp_path))
    assert "Common units" in page
    assert "all units: the ceiling" in page
    assert "all neurons" not in page


def test_the_same_rankings_have_everything_in_common(runs, tmp_path):
    overlap = page_of(runs, tmp_path).split('id="overlap"')[1]
    assert "Rank correlation 1.00" in overlap
    assert "100\u00a0%" in overlap


def test_models_of_other_shapes_are_not_compared_neuron_by_neuron(runs, tmp_path):
    small = Ranking("attribution", torch.rand(10), UnitSpace.neurons((5, 5)))
    means = {f"mean_{s}": torch.zeros(10) for s in ("aligned", "unaligned")}
    write_table(runs[1].file("neurons.parquet"), {small.name: small}, means)
    assert "cannot be\ncompared" in page_of(runs, tmp_path)


def test_figures_that_one_run_lacks_are_said_to_lack(runs, tmp_path):
    file = runs[1].file("summary.json")
    figures = json.loads(file.read_text())
    figures["curve"] = [row for row in figures["curve"] if row["share"] != 0.1]
    figures["necessity"] = None
    file.write_text(json.dumps(figures))
    page = page_of(runs, tmp_path)
    assert "not tested" in page
    assert "not enough data" in page


def test_a_run_is_not_compared_with_itself(runs, tmp_path):
    with pytest.raises(UserError, match="given twice"):
        page_of([runs[0], RunFolder.open(runs[0].path)], tmp_path)


def test_the_command_renders_one_run_or_several(runs, tmp_path):
    one, two = (str(run.path) for run in runs)
    invoke = CliRunner().invoke
    assert invoke(app, ["report", one]).exit_code == 0
    assert runs[0].file("report.html").is_file()
    assert invoke(app, ["report", one, two]).exit_code == 0
    assert runs[0].file("comparison.html").is_file()
    assert invoke(app, ["report", one, two, "--out", str(tmp_path / "here.html")]).exit_code == 0
    assert (tmp_path / "here.html").is_file()
    wrong = invoke(app, ["report", one, "--out", str(tmp_path / "there.html")])
    assert wrong.exit_code == 2
    assert invoke(app, ["report", one, str(tmp_path / "nowhere")]).exit_code == 2
