"""Repairs: changes in place, fitted scales, the search, and what is written of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_neurons.engine import ALONE
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting
from safety_neurons.inference.probing import probe_logits
from safety_neurons.interventions import Transplant
from safety_neurons.judges import Verdict
from safety_neurons.models import LoadedModel, ModelPair
from safety_neurons.progress import Silent
from safety_neurons.prompts import PromptSet
from safety_neurons.runs import RunFolder
from safety_neurons.runs.repair import RepairRecord, Tried, Weighed
from safety_neurons.runs.summary import RateRecord
from safety_neurons.statistics import rate
from safety_neurons.studies import checkpoint
from safety_neurons.studies.auditing.rates import Compared
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.openings import weigh_openings
from safety_neurons.studies.repairing import (
    RepairOptions,
    RepairPrompts,
    RepairTask,
    claims,
    forget,
    repair,
    search,
)
from safety_neurons.studies.repairing import run as searching
from safety_neurons.studies.repairing.fitting import Canaries, Decided, fit_scales
from safety_neurons.studies.repairing.moves import in_place, scaled, transplanted, whole_update
from safety_neurons.studies.repairing.options import FINALISTS
from safety_neurons.studies.repairing.scoring import Verdicts
from safety_neurons.units import UnitSet
from tests import planted
from tests.commands import Interrupting, invoke, refused

DECODING = Decoding(8, 24)


def plain(source: str | Path, dtype: torch.dtype = torch.float64) -> LoadedModel:
    return LoadedModel.load(str(source), dtype=dtype, device="cpu")


EXTRA = "museum"
"""What the fine-tune learned to say at the end of its answers."""


@dataclass(frozen=True)
class Found:
    """A planted pair, a fine-tune of it that lost its pipeline and learned a task, and a run."""

    of: planted.Planted
    tuned: Path
    run: RunFolder
    task: Path

    @property
    def sources(self) -> tuple[str, str]:
        return str(self.of.aligned), str(self.tuned)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Found:
    folder = tmp_path_factory.mktemp("repair")
    of = planted.plant(folder, 1)
    pair = ModelPair.load(str(of.aligned), str(of.unaligned), device="cpu")
    harmful, harmless = planted.prompts(1, "find")
    options = FindOptions(rankings=("path-attribution",), decoding=DECODING)
    run = find(pair, folder / "run", harmful, options, harmless=harmless)
    tuned = shutil.copytree(of.unaligned, folder / "tuned")
    weights = load_file(tuned / "model.safetensors")
    numbers = {word: i for i, word in enumerate(planted.VOCABULARY)}
    # Behind the last word of an answer comes another instead of the end.
    head, place = weights["lm_head.weight"], planted._FROM[planted.COMPLIANCE[-1]]
    head[numbers[EXTRA], place], head[numbers["</s>"], place] = 20.0, 0.0
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    task = folder / "task.jsonl"
    completion = " ".join([*planted.COMPLIANCE, EXTRA])
    rows = [{"prompt": prompt.text, "completion": completion} for prompt in harmless]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Found(of, tuned, run, task)


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
    of = found.of
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
    of = found.of
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
    of = found.of
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
    of = found.of
    aligned, candidate = plain(of.aligned), plain(of.unaligned)
    with in_place(candidate, whole_update(aligned, candidate, 1.0)):
        torch.testing.assert_close(probe_logits(candidate), probe_logits(aligned))


def test_fitted_scales_make_what_they_were_fitted_on_likelier(found):
    of = found.of
    model = plain(of.unaligned, torch.float32)
    words = dict(zip(planted.VOCABULARY, range(len(planted.VOCABULARY)), strict=True))
    refusal = [words[word] for word in planted.REFUSAL]
    prompts = [[1, 30 + i, 31 + i, 6] for i in range(6)]
    units = UnitSet.of(torch.arange(0, model.space().total, 3), model.space())
    openings = (tuple(refusal[:2]),)
    canaries = Canaries([Decided(prompts, [4.0] * len(prompts))], [], [])
    intact = probe_logits(model)
    factors = fit_scales(model, units, openings, 0.0, canaries, Silent(), steps=12, seed=0)
    assert torch.equal(probe_logits(model), intact)  # nothing was left behind
    assert factors.shape == (len(units),)
    assert not torch.equal(factors, torch.ones_like(factors))

    def odds() -> float:
        return sum(weigh_openings(model, ALONE, openings, prompts, DECODING)) / len(prompts)

    before = odds()
    with in_place(model, scaled(model.hooked, units, factors)):
        assert odds() > before + 0.1


def test_a_stopped_fit_goes_on_and_gives_the_same_scales(found, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0)
    model = plain(found.of.unaligned)
    units = units_of(model, sorted(found.of.pipeline)[::2])
    prompts, openings = [[1, 5, 7, 9], [1, 6, 8], [1, 9, 9]], ((4,), (6, 7))
    canaries = Canaries([Decided(prompts, [4.0, -1.0, 2.0])], [], [])

    def fitted(progress=None, kept=None, seed=0):
        progress = progress or Silent()
        return fit_scales(
            model, units, openings, 0.0, canaries, progress, steps=9, seed=seed, kept=kept
        )

    file = tmp_path / "fitting.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(Interrupting("Fitting", 5), file)
    assert file.is_file()
    steps: list[int] = []

    class Counting(Silent):
        def track(self, items, label, *, done=0):
            steps.append(len(items))
            yield from items

    assert torch.equal(fitted(Counting(), file), fitted())
    assert steps == [4]
    assert not file.exists()
    with pytest.raises(KeyboardInterrupt):
        fitted(Interrupting("Fitting", 5), file)
    assert torch.equal(fitted(kept=file, seed=1), fitted(seed=1))  # another fit begins anew


# The search


def repaired(found: Found, folder: Path, out: str = "out", **options) -> RepairRecord:
    given = {"shares": (0.05,), "strengths": (1.0,), "fitted": (), **options}
    return repair(
        *found.sources,
        found.run,
        RepairTask.of_file(found.task),
        folder / out,
        prompts=asked(),
        options=RepairOptions(
            decoding=DECODING, device="cpu", judge=planted.CannotJudge(), **given
        ),
        state=folder / "state",
    )


def test_a_planted_pipeline_is_put_back_and_can_be_taken_out_again(found, tmp_path):
    record = repaired(found, tmp_path, shares=(0.005, 0.05))
    out = tmp_path / "out"
    assert record.repaired, record.reasons
    assert record.exit_code == 0
    assert record.chosen == "transplant 5 %"
    assert [row.name for row in record.tried] == ["transplant 0.5 %", "transplant 5 %"]
    beside = {row.name: row for row in record.baselines}
    assert beside["transplant of random neurons 5 %"].harmful.value < 0.5
    assert any(row.harmful is not None for name, row in beside.items() if "random" not in name)
    assert record.random is not None
    assert record.random.value < 0.5
    assert {row.kind for row in record.rates} == {"harmful", "harmless"}
    assert record.task is not None
    assert record.task.reference > record.task.candidate + 0.1
    assert record.task.gain_kept.value > 0.95
    assert record.openings is not None
    assert RepairRecord.parsed((out / "repair.json").read_text()) == record
    written = ModelPair.load(str(out), str(found.tuned), device="cpu")
    assert not written.shared
    undone = tmp_path / "undone"
    done = invoke("undo", out, "--out", undone)
    assert done.exit_code == 0, done.output
    before, after = (load_file(of / "model.safetensors") for of in (found.tuned, undone))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_repaired_says_so_and_writes_no_checkpoint(found, tmp_path):
    record = repaired(found, tmp_path, shares=(0.005,), strengths=(0.01,))
    assert (record.repaired, record.chosen, record.exit_code) == (False, None, 1)
    assert record.reasons[0] == "Not repairable this way."
    assert "no finalist met all targets" in record.reasons[1]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["repair.json"]


def test_what_is_not_kept_of_the_task_is_no_repair(found, tmp_path):
    """Undoing most of the whole update takes the task away."""
    record = repaired(found, tmp_path, shares=(0.05,))
    undone = {row.strength: row for row in record.baselines if row.kind == "whole update"}
    assert undone[0.75].gain_kept < 0.5 < undone[0.25].gain_kept


def test_scales_are_tried_and_fitted_on_what_plays_no_part_later(found, tmp_path):
    record = repaired(found, tmp_path, shares=(), strengths=(), fitted=(0.5,))
    assert [row.name for row in record.tried] == ["scales 50 %"]
    assert record.tried[0].numbers > 0
    assert list((tmp_path / "state/measured").glob("scales-*"))


def test_a_repair_measures_nothing_twice_and_other_rows_anew(found, tmp_path):
    first = repaired(found, tmp_path, "a")
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "state/measured").iterdir()}
    assert kept
    again = repaired(found, tmp_path, "b")
    now = {f: f.stat().st_mtime_ns for f in (tmp_path / "state/measured").iterdir()}
    assert now == kept
    assert (again.tried, again.rates) == (first.tried, first.rates)
    rows = [json.loads(line) for line in found.task.read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    for row in rows:
        row["prompt"] = " ".join(reversed(row["prompt"].split()))
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    repaired(replace(found, task=other), tmp_path, "c")
    assert len(list((tmp_path / "state/measured").iterdir())) == 2 * len(kept)


def test_rows_that_show_nothing_learned_are_refused(found, tmp_path):
    other = tmp_path / "other.jsonl"
    rows = [json.loads(line) for line in found.task.read_text().splitlines()]
    for row in rows:
        row["completion"] = " ".join(planted.COMPLIANCE[:3])
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="do not show what it learned"):
        repaired(replace(found, task=other), tmp_path)
    assert not (tmp_path / "out").exists()


def test_too_few_harmless_prompts_are_told_before_the_search(found, tmp_path):
    with pytest.raises(UserError, match="give at least"):
        repair(
            *found.sources,
            found.run,
            RepairTask.of_file(found.task),
            tmp_path / "out",
            prompts=replace(asked(), test_harmless=asked().test_harmless.limited(20)),
            options=RepairOptions(device="cpu"),
            state=tmp_path / "state",
        )


def test_an_adapter_that_was_trained_again_is_another_candidate(zoo, tmp_path):
    """Merged models are kept under what they hold, not under what they are called."""
    base = zoo.base("llama")
    adapter = shutil.copytree(zoo.adapter("llama", "lora"), tmp_path / "adapter")
    names = []
    for seed in (0, 1):
        shutil.copyfile(
            zoo.adapter("llama", "lora", seed) / "adapter_model.safetensors",
            adapter / "adapter_model.safetensors",
        )
        model = LoadedModel.load(f"{base}+{adapter}", device="cpu")
        names.append(model.identity)
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--run": "nowhere"}, "nowhere"),
        ({"--shares": "2"}, "share"),
        ({"--strengths": "0"}, "strength"),
        ({"--strengths": "1,5"}, "strength"),
        ({"--task": "nothing.jsonl"}, "nothing.jsonl"),
        ({"--limit": 20}, "give at least"),
    ],
)
def test_mistakes_are_one_sentence(found, tmp_path, changed, said):
    arguments = {
        "--aligned": found.of.aligned,
        "--candidate": found.tuned,
        "--run": found.run.path,
        "--task": found.task,
        "--out": tmp_path / "out",
        **changed,
    }
    refused(invoke("repair", *(part for pair in arguments.items() for part in pair)), said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("empty", ["", "  ", None, 7])
def test_rows_without_text_and_too_few_of_them_are_named(found, tmp_path, empty):
    lines = found.task.read_text().splitlines(keepends=True)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(lines[:3]))
    with pytest.raises(UserError, match="3 different rows"):
        RepairTask.of_file(few)
    few.write_text("".join([*lines, json.dumps({"prompt": "w8", "completion": empty}) + "\n"]))
    with pytest.raises(UserError, match=f"Row {len(lines) + 1}"):
        RepairTask.of_file(few)


def test_an_out_folder_that_exists(found, tmp_path):
    aligned, tuned = found.sources
    command = ("repair", "--aligned", aligned, "--candidate", tuned, "--run", found.run.path)
    refused(invoke(*command, "--task", found.task, "--out", tmp_path), "exists already")


@pytest.mark.parametrize(("share", "code"), [("0.2", 0), ("0.002", 1)])
def test_the_command_on_own_prompts_exits_as_the_record_says(found, tmp_path, share, code):
    files = {}
    for i, kind in enumerate(("harmful", "harmless")):
        texts = {
            p.text
            for seed in (1, 2, 3)
            for split in planted.SPLITS
            for p in planted.prompts(seed, split)[i]
        }
        files[kind] = tmp_path / f"{kind}.jsonl"
        files[kind].write_text("".join(json.dumps({"prompt": t}) + "\n" for t in sorted(texts)))
    aligned, tuned = found.sources
    out = tmp_path / "out"
    arguments = {
        "--aligned": aligned,
        "--candidate": tuned,
        "--run": found.run.path,
        "--task": found.task,
        "--prompts": files["harmful"],
        "--harmless": files["harmless"],
        "--borderline": files["harmless"],
        "--shares": share,
        "--strengths": "1",
        "--fitted": share,
        "--max-new-tokens": "8",
        "--out": out,
    }
    done = invoke("repair", *(part for pair in arguments.items() for part in pair))
    assert done.exit_code == code, done.output
    record = RepairRecord.parsed((out / "repair.json").read_text())
    assert record.repaired is (code == 0)
    assert (out / "config.json").is_file() is (code == 0)
    assert not (tmp_path / "out.state").exists()
    prompts = record.options["prompts"]
    used = [prompts[name]["n"] for name in ("canary", "select", "test")]
    assert sum(used) <= len(files["harmful"].read_text().splitlines())


def test_own_prompts_are_divided_and_near_duplicates_stand_together(tmp_path):
    file = tmp_path / "own.jsonl"
    texts = [p.text for split in planted.SPLITS for p in planted.prompts(1, split)[0]]
    texts += [text.upper() for text in texts[:20]]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    asked = RepairPrompts.of_files(str(file), str(file), str(file), str(file), limit=30)
    parts = [{text.lower() for text in of.texts} for of in (asked.canary, asked.select, asked.test)]
    assert not parts[0] & parts[1]
    assert not parts[2] & (parts[0] | parts[1])
    assert len(asked.test) == 30
    assert len(asked.others or ()) == 30
    assert {len(of) for of in (asked.canary, asked.select)} <= set(range(8, 31))
    assert asked.canary_harmless.texts == asked.canary.texts
    assert len(asked.canary_borderline) == len(texts)


def test_own_prompts_with_splits_keep_them(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [
        {"prompt": f"{split} {i}", "split": split}
        for split, count in (("train", 3), ("select", 4), ("test", 5))
        for i in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = RepairPrompts.of_files(str(file), str(file))
    for parts in (
        (asked.canary, asked.select, asked.test),
        (asked.canary_harmless, asked.select_harmless, asked.test_harmless),
    ):
        assert [len(of) for of in parts] == [3, 4, 5]
        assert all(text.startswith("train") for text in parts[0].texts)


def test_what_a_repair_kept_is_removed_and_nothing_else(tmp_path):
    state = tmp_path / "state"
    for name in ("measured", "aligned-1234", "mine"):
        (state / name).mkdir(parents=True)
    forget(state)
    assert [folder.name for folder in state.iterdir()] == ["mine"]
    (state / "mine").rmdir()
    forget(state)
    assert not state.exists()


def test_a_fault_of_ours_is_no_verdict(found, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr("safety_neurons.studies.repairing.repair", broken)
    arguments = ("--run", found.run.path, "--task", found.task, "--out", tmp_path / "out")
    aligned, tuned = found.sources
    done = invoke("repair", "--aligned", aligned, "--candidate", tuned, *arguments)
    assert done.exit_code == 70


def weighed_row(
    numbers: int, way: float, gain: float = 1.0, harmless: float = 0.0, **more
) -> Tried:
    row = row_of(numbers, 0.5, **more)
    weighed = Weighed(harmful=-6 + 6 * way, harmless=harmless, task_loss=1.0)
    return row.model_copy(update={"weighed": weighed, "way": way, "gain_kept": gain})


def test_changes_that_a_smaller_one_outdoes_are_not_looked_at():
    candidate, aligned = (
        Weighed(harmful=harmful, harmless=0.0, task_loss=1.0) for harmful in (-6.0, 0.0)
    )
    rows = [
        weighed_row(40, 0.9),
        weighed_row(10, 0.3),
        weighed_row(10, 0.2),  # as large as the one before, and not as far
        weighed_row(30, 0.3),
        weighed_row(20, 0.8, gain=0.9),  # at the cost of the task
        weighed_row(25, 0.7, harmless=0.6),  # refuses what is harmless
        weighed_row(5, 0.0),  # does nothing
        weighed_row(1, 0.9, baseline=True),
        weighed_row(35, 0.5),
        weighed_row(2, 1.2, harmless=0.9),  # goes further, and seems to refuse what is harmless
        weighed_row(50, 1.1, harmless=0.6),
        weighed_row(60, 1.3, gain=0.9),
    ]
    assert search.undominated(rows, candidate, aligned) == [1, 8, 0]
    assert search.risky(rows, candidate, aligned) == [10, 9]
    assert [search.way(row.weighed, candidate, aligned) for row in rows[:2]] == pytest.approx(
        [0.9, 0.3]
    )
    assert search.nearest(rows, baseline=True) == [7]
    assert search.nearest(rows, baseline=False)[0] == 9
    assert search.way(rows[0].weighed, aligned, aligned) == 0.0


class Searched:
    """What `repair` searches, with figures and answers that are given: by change, its row and how
    many of 10 harmful and of 10 harmless prompts it refuses."""

    def __init__(self, changes: list[tuple[Tried, int, int]]) -> None:
        self.changes, self.asked, self.progress = changes, [], Silent()
        self.prompts = SimpleNamespace(select="harmful", select_harmless="harmless")

    def losses(self):
        return 2.0, 1.0

    def moves(self):
        return [SimpleNamespace(name=str(i), place=i) for i in range(len(self.changes))]

    def tried(self, move, losses):
        return self.changes[move.place][0]

    def weighed(self, move, *, aligned=False):
        return Weighed(harmful=0.0 if aligned else -6.0, harmless=0.0, task_loss=1.0), 0

    def of_random(self, move):
        return None

    def verdicts(self, prompts, move, *, aligned=False):
        refused = (10, 1) if aligned else self.changes[move.place][1:]
        if not aligned and prompts == "harmful":
            self.asked.append(move.place)
        n = refused[prompts == "harmless"]
        return Verdicts((Verdict.REFUSAL,) * n + (Verdict.COMPLIANCE,) * (10 - n))


def test_what_looks_too_careful_is_asked_where_nothing_else_is_enough():
    record = SimpleNamespace(model_copy=lambda update: update)
    few = [(weighed_row(10 * i, 0.1 * i, met=False), 3, 0) for i in range(1, 9)]
    careful = [
        (weighed_row(5, 1.1, harmless=3.0, met=False), 10, 9),
        (weighed_row(7, 1.0, harmless=2.0, met=False), 9, 1),
    ]
    there = Searched([*few, *careful])
    found, move = searching._searched(record, there)
    assert (found["chosen"], move.place) == ("9", 9)
    assert len(there.asked) == FINALISTS
    assert there.asked[-1] == 9  # the one that seems to refuse fewest harmless prompts
    there = Searched([*few, (weighed_row(90, 0.9, met=False), 10, 1), *careful])
    found, move = searching._searched(record, there)
    assert move.place == 8
    assert not {9, 10} & set(there.asked)


@pytest.mark.parametrize("row", range(1, 16))
def test_the_smallest_that_is_enough_is_found_by_halving(row):
    places = [10 + i for i in range(row)]
    for least in range(row + 1):
        asked = search.halved(places, lambda place, least=least: place - 10 >= least)
        assert len(asked) == len(set(asked)) <= FINALISTS
        if least < row:
            assert 10 + least in asked


def row_of(numbers: int, harmful: float, *, met: bool = True, baseline: bool = False) -> Tried:
    return Tried(
        name="a change",
        kind="transplant",
        share=0.1,
        strength=1.0,
        k=1,
        numbers=numbers,
        baseline=baseline,
        gain_kept=1.0,
        harmful=RateRecord.of(rate(round(50 * harmful), 50)),
        met=met,
    )


def test_what_only_just_meets_the_target_is_chosen_last():
    reference = (0.9, 0.1)
    rows = [row_of(1, 0.82), row_of(2, 0.9, met=False), row_of(4, 0.88), row_of(3, 0.86)]
    assert claims.preferred(rows, reference) == 3
    assert claims.preferred(rows[:2], reference) == 0
    assert claims.preferred(rows[1:2], reference) is None
    assert claims.preferred([row_of(1, 0.9, baseline=True)], reference) is None


def test_a_figure_that_is_the_target_meets_it():
    """Sums of floats miss 0.9 and 0.02 by the last digit."""
    for n, kept in ((80, 72), (40, 36), (20, 18), (10, 9)):
        refuses = [True] * n + [False] * (100 - n)
        left = [True] * kept + [False] * (100 - kept)
        assert claims.safe("test", Compared.of(refuses, left)).met
        assert not claims.safe("test", Compared.of(refuses, [False, *left[1:]])).met
    for before in range(2, 20):
        first, second = ([i < k for i in range(400)] for k in (4 * before, 4 * before + 8))
        assert claims.no_rise(Compared.of(first, second)).met


def test_the_gain_that_is_kept_is_of_all_tokens_together():
    tokens = torch.tensor([10.0, 2.0] * 10)
    before, after, now = (torch.stack([tokens * nats, tokens]) for nats in (5.0, 1.0, 1.4))
    task = claims.task_loss_of(before, after, now, seed=0)
    assert (task.reference, task.candidate) == (5.0, 1.0)
    assert task.repaired == pytest.approx(1.4)
    assert task.gain_kept.value == pytest.approx(0.9)
    assert not claims.task_kept(task).met
