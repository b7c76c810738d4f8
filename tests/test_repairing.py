"""Repairs: changes in place, fitted scales, the search, and what is written of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safety_neurons.engine import ALONE
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting
from safety_neurons.inference.probing import probe_logits
from safety_neurons.interventions import Transplant
from safety_neurons.models import LoadedModel, ModelPair
from safety_neurons.progress import Silent
from safety_neurons.prompts import PromptSet
from safety_neurons.runs import RunFolder
from safety_neurons.runs.repair import RepairRecord
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.openings import OpeningSets, margins
from safety_neurons.studies.repairing import RepairOptions, RepairPrompts, RepairTask, repair
from safety_neurons.studies.repairing.fitting import Canaries, Decided, fit_scales
from safety_neurons.studies.repairing.moves import in_place, scaled, transplanted, whole_update
from safety_neurons.units import UnitSet
from tests import planted
from tests.commands import invoke, refused

DECODING = Decoding(8, 24)


def plain(source: str | Path, dtype: torch.dtype = torch.float64) -> LoadedModel:
    return LoadedModel.load(str(source), dtype=dtype, device="cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[planted.Planted, RunFolder, Path]:
    """A planted pair, a run of it, and rows of a task."""
    folder = tmp_path_factory.mktemp("repair")
    of = planted.plant(folder, 1)
    pair = ModelPair.load(str(of.aligned), str(of.unaligned), device="cpu")
    harmful, harmless = planted.prompts(1, "find")
    options = FindOptions(rankings=("path-attribution",), decoding=DECODING)
    run = find(pair, folder / "run", harmful, options, harmless=harmless)
    task = folder / "task.jsonl"
    rows = [
        {"prompt": prompt.text, "completion": " ".join(planted.COMPLIANCE)} for prompt in harmless
    ]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return of, run, task


def units_of(model: LoadedModel, names: list[str]) -> UnitSet:
    """By names such as `L2.N17`."""
    space = model.space()
    places = {name: i for i, name in enumerate(space.names_of(torch.arange(space.total)))}
    return UnitSet.of(torch.tensor([places[name] for name in names]), space)


def asked() -> RepairPrompts:
    sets = {split: planted.prompts(1, split) for split in planted.SPLITS}
    # With the harmless ones of one split too few to show that not more are refused.
    harmless = PromptSet("harmless", sum((of[1].prompts for of in sets.values()), ()))
    canaries = (*sets["find"], sets["find"][1])
    return RepairPrompts(*canaries, *sets["select"], sets["test"][0], harmless)


# Changes


def test_a_change_in_place_is_the_live_transplant_and_is_taken_back(found):
    of, _, _ = found
    aligned, candidate = plain(of.aligned), plain(of.unaligned)
    units = units_of(candidate, sorted(of.pipeline)[::3])
    before = {n: p.clone() for n, p in candidate.hooked.model.named_parameters()}
    live = Setting(interventions=(Transplant.between(aligned.hooked, candidate.hooked, units),))
    expected, intact = probe_logits(candidate, live), probe_logits(candidate)
    with in_place(candidate, transplanted(aligned, candidate, units, 1.0)) as changed:
        torch.testing.assert_close(probe_logits(candidate), expected, rtol=1e-9, atol=1e-9)
        assert 0 < changed <= len(units) * 3 * planted.HIDDEN
    assert torch.equal(probe_logits(candidate), intact)
    assert all(torch.equal(p, before[n]) for n, p in candidate.hooked.model.named_parameters())


def test_a_change_in_place_is_taken_back_after_an_error(found):
    of, _, _ = found
    candidate = plain(of.unaligned)
    before = {n: p.clone() for n, p in candidate.hooked.model.named_parameters()}

    def breaking(tensor):
        raise RuntimeError("no")

    name = next(iter(before))
    with (
        pytest.raises(RuntimeError),
        in_place(candidate, {name: lambda t: t + 1, list(before)[1]: breaking}),
    ):
        pass
    assert all(torch.equal(p, before[n]) for n, p in candidate.hooked.model.named_parameters())


def test_half_of_the_way_is_half_of_the_way(found):
    of, _, _ = found
    aligned, candidate = plain(of.aligned), plain(of.unaligned)
    units = UnitSet.all(candidate.space())
    theirs = dict(aligned.hooked.model.named_parameters())
    own = {n: p.clone() for n, p in candidate.hooked.model.named_parameters()}
    for edits in (
        transplanted(aligned, candidate, units, 0.5),
        whole_update(aligned, candidate, 0.5),
    ):
        with in_place(candidate, edits):
            now = dict(candidate.hooked.model.named_parameters())
            for name in edits:
                torch.testing.assert_close(now[name], (own[name] + theirs[name]) / 2)


def test_all_of_the_whole_update_is_the_aligned_model(found):
    of, _, _ = found
    aligned, candidate = plain(of.aligned), plain(of.unaligned)
    with in_place(candidate, whole_update(aligned, candidate, 1.0)):
        torch.testing.assert_close(probe_logits(candidate), probe_logits(aligned))


def test_fitted_scales_make_what_they_were_fitted_on_likelier(found):
    of, _, _ = found
    model = plain(of.unaligned, torch.float32)
    words = dict(zip(planted.VOCABULARY, range(len(planted.VOCABULARY)), strict=True))
    refusal = [words[word] for word in planted.REFUSAL]
    prompts = [[1, 30 + i, 31 + i, 6] for i in range(6)]
    units = UnitSet.of(torch.arange(0, model.space().total, 3), model.space())
    answer = [words[word] for word in planted.COMPLIANCE]
    openings = OpeningSets((tuple(refusal[:2]),), (tuple(answer[:2]),), 0, ())
    canaries = Canaries([Decided(prompts, [4.0] * len(prompts))], [], [])
    intact = probe_logits(model)
    factors = fit_scales(model, units, openings, 0.0, canaries, Silent(), steps=12, seed=0)
    assert torch.equal(probe_logits(model), intact)  # nothing was left behind
    assert factors.shape == (len(units),)
    assert not torch.equal(factors, torch.ones_like(factors))

    def margin() -> float:
        return sum(margins(model, ALONE, openings, prompts, DECODING)) / len(prompts)

    before = margin()
    with in_place(model, scaled(model.hooked, units, factors)):
        assert margin() > before + 0.1


# The search


def test_a_planted_pipeline_is_put_back_and_can_be_taken_out_again(found, tmp_path):
    of, run, task = found
    out = tmp_path / "repaired"
    options = RepairOptions(
        shares=(0.005, 0.05), strengths=(1.0,), fitted=(), decoding=DECODING, device="cpu"
    )
    arguments = (of.aligned, of.unaligned, run, RepairTask.of_file(task), out)
    record = repair(
        *(str(a) if isinstance(a, Path) else a for a in arguments),
        prompts=asked(),
        options=options,
        state=tmp_path / "state",
    )
    assert record.repaired, record.reasons
    assert record.exit_code == 0
    assert record.chosen == "transplant 5 %"
    assert {row.name for row in record.baselines} >= {"transplant of all neurons"}
    assert record.random is not None
    assert record.random.value < 0.5
    assert {row.kind for row in record.rates} == {"harmful", "harmless"}
    assert RepairRecord.parsed((out / "repair.json").read_text()) == record
    written = ModelPair.load(str(out), str(of.unaligned), device="cpu")
    assert not written.shared
    undone = tmp_path / "undone"
    done = invoke("undo", out, "--out", undone)
    assert done.exit_code == 0, done.output
    before, after = (load_file(of / "model.safetensors") for of in (of.unaligned, undone))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_repaired_says_so_and_writes_no_checkpoint(found, tmp_path):
    of, run, task = found
    out = tmp_path / "repaired"
    options = RepairOptions(
        shares=(0.005,), strengths=(0.01,), fitted=(), decoding=DECODING, device="cpu"
    )
    record = repair(
        str(of.aligned),
        str(of.unaligned),
        run,
        RepairTask.of_file(task),
        out,
        prompts=asked(),
        options=options,
        state=tmp_path / "state",
    )
    assert (record.repaired, record.chosen, record.exit_code) == (False, None, 1)
    assert record.reasons[0] == "Not repairable this way."
    assert [file.name for file in out.iterdir()] == ["repair.json"]


def test_a_repair_measures_nothing_twice(found, tmp_path):
    of, run, task = found
    options = RepairOptions(
        shares=(0.02,), strengths=(1.0,), fitted=(), decoding=DECODING, device="cpu"
    )
    records = [
        repair(
            str(of.aligned),
            str(of.unaligned),
            run,
            RepairTask.of_file(task),
            tmp_path / f"out{i}",
            prompts=asked(),
            options=options,
            state=tmp_path / "state",
        )
        for i in range(2)
    ]
    kept = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "state/measured").iterdir()}
    assert kept
    assert records[0].tried == records[1].tried
    assert records[0].rates == records[1].rates


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--run": "nowhere"}, "nowhere"),
        ({"--shares": "2"}, "share"),
        ({"--strengths": "0"}, "strength"),
        ({"--task": "nothing.jsonl"}, "nothing.jsonl"),
    ],
)
def test_mistakes_are_one_sentence(found, tmp_path, changed, said):
    of, run, task = found
    arguments = {
        "--aligned": of.aligned,
        "--candidate": of.unaligned,
        "--run": run.path,
        "--task": task,
        "--out": tmp_path / "out",
        **changed,
    }
    refused(invoke("repair", *(part for pair in arguments.items() for part in pair)), said)
    assert not (tmp_path / "out").exists()


def test_too_few_rows_and_an_out_folder_that_exists(found, tmp_path):
    of, run, task = found
    few = tmp_path / "few.jsonl"
    few.write_text("".join(task.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match="3 rows"):
        RepairTask.of_file(few)
    command = ("repair", "--aligned", of.aligned, "--candidate", of.unaligned, "--run", run.path)
    refused(invoke(*command, "--task", task, "--out", tmp_path), "exists already")
