"""Audits: figures with intervals, rules, drift, and what is written of them."""

from __future__ import annotations

import json
import random
import shutil
import xml.etree.ElementTree as Xml

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding
from safety_neurons.judges import Verdict
from safety_neurons.judges.calibration import Errors
from safety_neurons.methods.drift import Columns, DriftSums, function_drift, weight_drift
from safety_neurons.models import ModelPair
from safety_neurons.prompts import load_prompts
from safety_neurons.report.audit import write_audit
from safety_neurons.runs import RunFolder
from safety_neurons.runs.audit import AuditCard
from safety_neurons.studies.auditing import AuditOptions, AuditPrompts, audit
from safety_neurons.studies.auditing.behaviour import require_finished
from safety_neurons.studies.auditing.fast import best_threshold
from safety_neurons.studies.auditing.rates import Compared
from safety_neurons.studies.auditing.verdict import conclude
from safety_neurons.studies.finding import FindOptions, find
from safety_neurons.studies.openings import Answered, OpeningSets
from safety_neurons.units import UnitSet
from tests import planted
from tests.commands import invoke, prompt_file, refused
from tests.tiny import load, save


def refusals(n: int, rate: float) -> list[bool]:
    return [i < round(n * rate) for i in range(n)]


def verdict_of(n, harmful, harmless, incoherent=0.0, **options):
    figures = [Compared.of(refusals(n, a), refusals(n, b)) for a, b in (harmful, harmless)]
    return conclude(*figures, incoherent, **options)


@pytest.mark.parametrize(
    ("harmful", "harmless", "incoherent", "verdict"),
    [
        ((0.95, 0.94), (0.05, 0.05), 0.0, "intact"),
        ((0.95, 0.70), (0.05, 0.05), 0.0, "eroded"),
        ((0.95, 0.10), (0.05, 0.05), 0.0, "lost"),
        ((0.95, 0.00), (0.05, 0.05), 0.3, "broken"),
        ((0.95, 0.95), (0.05, 0.20), 0.0, "over-refusing"),
        ((0.95, 0.70), (0.05, 0.30), 0.0, "eroded"),
        ((0.95, 0.85), (0.05, 0.05), 0.0, "cannot be told"),
        ((0.95, 0.95), (0.05, 0.11), 0.0, "intact"),
        ((0.60, 0.90), (0.05, 0.02), 0.0, "intact"),
    ],
)
def test_the_first_rule_that_holds_is_the_verdict(harmful, harmless, incoherent, verdict):
    found = verdict_of(400, harmful, harmless, incoherent)
    assert found.verdict == verdict
    assert found.failed == (verdict not in ("intact", "cannot be told"))
    holding = [rule.verdict for rule in found.rules if rule.holds]
    assert holding[:1] == ([] if verdict == "cannot be told" else [verdict])
    assert found.reasons[0]


def test_a_few_prompts_that_agree_tell_nothing():
    found = verdict_of(8, (1.0, 1.0), (0.0, 0.0))
    assert found.verdict == "cannot be told"
    assert found.needed is not None
    assert found.needed > 8
    assert verdict_of(100, (1.0, 1.0), (0.0, 0.0)).verdict == "intact"


@pytest.mark.parametrize(
    ("harmful", "harmless"),
    [((0.95, 0.93), (0.05, 0.07)), ((0.95, 0.78), (0.05, 0.05)), ((0.9, 0.9), (0.02, 0.14))],
)
def test_as_many_prompts_as_are_said_to_be_needed_do_tell(harmful, harmless):
    few = verdict_of(24, harmful, harmless)
    assert few.verdict == "cannot be told"
    assert few.needed is not None
    enough = verdict_of(2 * few.needed, harmful, harmless)
    assert enough.verdict != "cannot be told"


def test_figures_at_a_bound_name_no_number():
    found = verdict_of(100, (1.0, 0.90), (0.0, 0.0))
    assert (found.verdict, found.needed) == ("cannot be told", None)


def test_a_least_ratio_is_a_reason_of_its_own():
    found = verdict_of(400, (0.95, 0.93), (0.05, 0.05), fail_under=0.99)
    assert (found.verdict, found.failed) == ("intact", True)
    assert "at least 99 %" in found.reasons[1]
    assert not verdict_of(400, (0.95, 0.93), (0.05, 0.05), fail_under=0.9).failed
    # A reference that refuses nothing has no ratio, and nothing can be shown to be kept.
    assert verdict_of(100, (0.0, 0.0), (0.0, 0.0), fail_under=0.5).failed


def test_intervals_hold_what_is_so_as_often_as_they_say():
    """95 % intervals of the paired difference, drawn 300 times from known chances."""
    draw = random.Random(0)
    held = 0
    for seed in range(300):
        cells = draw.choices(range(4), weights=[0.75, 0.15, 0.03, 0.07], k=100)
        first, second = [c in (0, 1) for c in cells], [c in (0, 2) for c in cells]
        bounds = Compared.of(first, second, seed=seed).difference.interval
        held += bounds.low <= -0.12 <= bounds.high
    assert held / 300 >= 0.92


def test_a_judges_errors_are_taken_out_and_widen_the_interval():
    labels = [Verdict.REFUSAL] * 100 + [Verdict.COMPLIANCE] * 100
    said = [Verdict.REFUSAL] * 80 + [Verdict.COMPLIANCE] * 120
    errors = Errors.between(labels, said)  # finds 80 %, takes none of the others
    first, second = refusals(200, 0.76), refusals(200, 0.40)
    plain, corrected = Compared.of(first, second), Compared.of(first, second, errors)
    assert corrected.reference.value == pytest.approx(0.95)
    assert corrected.difference.value == pytest.approx(-0.36 / 0.8)
    assert corrected.ratio.value == pytest.approx(plain.ratio.value)
    wide, narrow = corrected.difference.interval, plain.difference.interval
    assert wide.high - wide.low > narrow.high - narrow.low
    # What is seen may be the judge's own mistakes alone; a rise shows all the same.
    rough = Errors.between(labels, [Verdict.REFUSAL] * 110 + [Verdict.COMPLIANCE] * 90)
    rise = Compared.of(refusals(200, 0.04), refusals(200, 0.09), rough)
    assert (rise.reference.value, rise.candidate.value) == (0, 0)
    assert rise.difference.value == pytest.approx(0.05 / 0.9)
    useless = Errors.between(labels, [Verdict.REFUSAL] * 200)
    assert Compared.of(first, second, useless).difference.value is None


def test_other_prompts_for_the_two_models_leave_more_open():
    same = Compared.of(refusals(100, 0.5), refusals(100, 0.5))
    other = Compared.of_unlike(refusals(100, 0.5), refusals(100, 0.5))
    bounds, wider = same.difference.interval, other.difference.interval
    assert wider.high - wider.low > 3 * (bounds.high - bounds.low)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_one_that_tells_best(seed):
    """Against all thresholds, also where margins are equal."""
    draw = random.Random(seed)
    found = [float(draw.randrange(12)) for _ in range(40)]
    labels = [
        Verdict.REFUSAL if draw.random() < 0.2 + 0.05 * margin else Verdict.COMPLIANCE
        for margin in found
    ]

    def telling(threshold: float) -> float:
        refusals = [m for m, of in zip(found, labels, strict=True) if of is Verdict.REFUSAL]
        others = [m for m, of in zip(found, labels, strict=True) if of is Verdict.COMPLIANCE]
        return sum(m > threshold for m in refusals) / len(refusals) + sum(
            m <= threshold for m in others
        ) / len(others)

    best = max(telling(threshold + 0.5) for threshold in range(11))
    assert telling(best_threshold(found, labels)) >= best - 0.02 - 1e-9


def test_of_thresholds_that_tell_alike_the_one_near_nought_is_taken():
    """Two models far apart leave a wide gap; what a fine-tune makes of it lies inside."""
    labels = [Verdict.COMPLIANCE] * 4 + [Verdict.REFUSAL] * 4
    assert best_threshold([-9.0, -8, -7, -6, 3, 4, 5, 6], labels) == 0
    assert best_threshold([-9.0, -8, -7, -6, -3, 4, 5, 6], labels) == -4.5
    assert best_threshold([1.0, 2, 3, 4, 7, 8, 9, 10], labels) == 5.5


def test_openings_tell_refusals_from_answers_to_harmless_prompts():
    """ "I" begins refusals alone where only harmful prompts were asked."""
    refused, other = Verdict.REFUSAL, Verdict.COMPLIANCE
    harmful = Answered(
        Side.ALIGNED, [[1]] * 6, [[5, 7, 9]] * 3 + [[8, 8]] * 3, [refused] * 3 + [other] * 3
    )
    harmless = Answered(Side.ALIGNED, [[1]] * 4, [[5, 6, 9]] * 4, [other] * 4)
    assert OpeningSets.of([harmful]).refusal == ((5,),)
    assert OpeningSets.of([harmful, harmless]).refusal == ((5, 7),)
    many = Answered(Side.ALIGNED, [[1]] * 9, [[i] for i in range(9)], [refused] * 9)
    assert len(OpeningSets.of([many], most=8).refusal) == 8


# Drift


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_and_its_merged_form_have_not_moved(zoo, tmp_path, architecture, kind):
    base, adapter = zoo.base(architecture), zoo.adapter(architecture, kind)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    save(merged, tmp_path / "merged")
    pair = ModelPair.load(f"{base}+{adapter}", str(tmp_path / "merged"), device="cpu")
    moved = drift_between(pair)
    assert max(of.of(UnitSet.all(pair.space())) for of in moved) < 1e-5
    apart = drift_between(ModelPair.load(f"{base}+{adapter}", str(base), device="cpu"))
    assert min(of.of(UnitSet.all(pair.space())) for of in apart) > 1e-3


def drift_between(pair: ModelPair) -> tuple[DriftSums, DriftSums]:
    space = pair.space()
    columns = Columns.of(pair, space)
    function = function_drift(pair, [[1, 5, 7, 9], [1, 6]], [[3, 4, 2], [8]], space, columns)
    return function, weight_drift(pair.sides[Side.ALIGNED], pair.sides[Side.UNALIGNED], space)


def test_drift_is_what_plain_hooks_say(zoo):
    """Of two plain checkpoints: activations by hooks, weights by subtraction."""
    base = zoo.base("llama")
    pair = ModelPair.load(zoo.source("llama", "lora"), str(base), dtype=torch.float64, device="cpu")
    function, weights = drift_between(pair)
    wrapped = PeftModel.from_pretrained(load(base), str(zoo.adapter("llama", "lora")))
    models = [wrapped.merge_and_unload(), load(base)]
    kept: list[list[torch.Tensor]] = [[], []]
    for place, model in enumerate(models):
        for layer in model.model.layers:
            down = layer.mlp.down_proj

            def keep(module, args, place=place):
                # What each neuron writes, as a vector.
                kept[place].append(args[0][..., None] * module.weight.T)

            down.register_forward_pre_hook(keep)
    change, size, positions = 0.0, 0.0, 0
    for prompt, completion in (([1, 5, 7, 9], [3, 4, 2]), ([1, 6], [8])):
        for of in kept:
            of.clear()
        for model in models:
            with torch.no_grad():
                model(torch.tensor([[*prompt, *completion[:-1]]]))
        first, second = (torch.cat([x[0, len(prompt) - 1 :] for x in of], dim=1) for of in kept)
        change = change + (first - second).square().sum(dim=(0, 2))
        size = size + first.square().sum(dim=(0, 2))
        positions += len(first)
    assert function.positions == positions == 4
    torch.testing.assert_close(function.change, change, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(function.size, size, rtol=1e-5, atol=1e-12)
    apart, whole = [], []
    for ours, theirs in zip(models[0].model.layers, models[1].model.layers, strict=True):
        pairs = [
            (getattr(ours.mlp, name).weight, getattr(theirs.mlp, name).weight, along)
            for name, along in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 0))
        ]
        apart.append(sum((a - b).square().sum(dim=d) for a, b, d in pairs))
        whole.append(sum(a.square().sum(dim=d) for a, _, d in pairs))
    torch.testing.assert_close(weights.change, torch.cat(apart).detach(), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(weights.size, torch.cat(whole).detach(), rtol=1e-5, atol=1e-12)


# Whole audits


class Scripted:
    """A judge of tiny models' noise: a prompt is refused by what its answer's length says."""

    name = "scripted-1"

    def __call__(self, prompts, responses):
        return [
            Verdict.REFUSAL if sum(map(ord, said)) % 3 else Verdict.COMPLIANCE for said in responses
        ]


@pytest.fixture
def asked(tmp_path) -> AuditPrompts:
    sizes = {"harmful": (12, 0), "harmless": (10, 21), "borderline": (8, 43)}
    return AuditPrompts(
        *(
            load_prompts(prompt_file(tmp_path / f"{name}.jsonl", n, start))
            for name, (n, start) in sizes.items()
        )
    )


OPTIONS = {"judge": Scripted(), "decoding": Decoding(4, 4), "device": "cpu", "share": 0.2}


def test_an_audit_of_a_model_with_itself_has_moved_nothing(zoo, asked, tmp_path):
    source = zoo.source("llama", "lora")
    card = audit(source, source, prompts=asked, options=AuditOptions(**OPTIONS))
    assert card.drift is not None
    assert (card.drift.whole.function, card.drift.whole.weights) == (0, 0)
    assert all(of.refused_by[1:3] == (0, 0) for of in card.rates.values())
    assert "The candidate's files are the reference's own." in card.notes
    assert any("scripted-1" in note for note in card.notes)  # its errors are not known
    out = write_audit(card, tmp_path / "audit")
    again = AuditCard.parsed((out / "audit.json").read_text())
    assert again == card
    assert Xml.parse(out / "junit.xml").getroot().get("tests") == "5"
    assert "have not moved at all" in (out / "report.html").read_text()
    assert "have not moved at all" in (out / "summary.md").read_text()


def test_an_audit_goes_on_where_it_was(zoo, asked, tmp_path):
    pair = zoo.source("llama", "lora"), zoo.source("llama", None)
    options = AuditOptions(**OPTIONS, drift=False)
    first = audit(*pair, prompts=asked, options=options, answers=tmp_path / "answers")
    logs = sorted((tmp_path / "answers").iterdir())
    assert len(logs) == 6
    before = [log.stat().st_mtime_ns for log in logs]
    again = audit(*pair, prompts=asked, options=options, answers=tmp_path / "answers")
    assert [log.stat().st_mtime_ns for log in logs] == before
    assert again.rates == first.rates
    assert again.samples == first.samples


def test_a_run_names_the_neurons_and_must_be_of_the_reference(zoo, asked, files, tmp_path):
    reference, other = zoo.source("llama", "lora"), zoo.source("llama", None)
    run = run_of(reference, other, files, tmp_path / "run")
    options = AuditOptions(**{**OPTIONS, "share": 0.1})
    card = audit(reference, other, run=run, prompts=asked, options=options)
    assert card.drift is not None
    assert card.drift.units == {"from": "run run", "ranking": "change-score", "share": 0.1, "k": 5}
    assert sum(of.k for of in card.drift.by_layer) == 5
    with pytest.raises(UserError, match="was found on another model than the reference"):
        audit(other, reference, run=run, prompts=asked, options=options)


def test_a_merged_form_of_the_runs_model_is_the_reference_too(zoo, asked, files, tmp_path):
    base, adapter = zoo.base("llama"), zoo.adapter("llama", "lora")
    run = run_of(f"{base}+{adapter}", str(base), files, tmp_path / "run")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = tmp_path / "merged"
    shutil.copytree(base, merged)
    PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().save_pretrained(merged)
    options = AuditOptions(**{**OPTIONS, "share": 0.1})
    card = audit(str(merged), str(base), run=run, prompts=asked, options=options)
    assert card.drift is not None
    assert card.drift.whole.function > 0


def run_of(reference: str, other: str, files, folder) -> RunFolder:
    pair = ModelPair.load(reference, other, device="cpu")
    options = FindOptions(rankings=("change-score",), decoding=Decoding(4, 4))
    return find(pair, folder, load_prompts(files["find"]), options)


def test_another_model_is_no_fine_tune(zoo):
    with pytest.raises(UserError, match="no fine-tune of the reference") as caught:
        audit(zoo.source("llama", None), zoo.source("qwen2", None))
    assert "reference" in str(caught.value)
    assert "aligned" not in str(caught.value)


def test_a_fast_audit_needs_a_run(zoo):
    source = zoo.source("llama", None)
    with pytest.raises(UserError, match="--run"):
        audit(source, source, options=AuditOptions(fast=True))


@pytest.mark.parametrize("wrong", [{"fail_under": 0.0}, {"fail_under": 1.5}, {"share": 0.0}])
def test_options_are_checked(wrong):
    with pytest.raises(UserError):
        AuditOptions(**wrong)


# The command, on pairs whose refusals were planted


@pytest.fixture(scope="module")
def planted_pair(tmp_path_factory) -> tuple[planted.Planted, RunFolder, list[object]]:
    """A pair, a run of it, and options that name prompts of its words."""
    folder = tmp_path_factory.mktemp("audits")
    of = planted.plant(folder, 2)
    pair = ModelPair.load(str(of.aligned), str(of.unaligned), device="cpu")
    harmful, harmless = planted.prompts(2, "find")
    options = FindOptions(rankings=("path-attribution",), decoding=Decoding(8, 24))
    run = find(pair, folder / "run", harmful, options, harmless=harmless)
    arguments: list[object] = ["--max-new-tokens", 8, "--device", "cpu"]
    for name, place in (("prompts", 0), ("harmless", 1), ("borderline", 1)):
        file = folder / f"{name}.jsonl"
        sets = (planted.prompts(2, split)[place] for split in ("select", "test"))
        rows = [{"id": p.id, "prompt": p.text} for of_split in sets for p in of_split]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments += [f"--{name}", file]
    return of, run, arguments


def audited(reference, candidate, arguments, out, *more):
    return invoke(
        *("audit", "--reference", reference, "--candidate", candidate, "--out", out),
        *arguments,
        *more,
    )


@pytest.mark.parametrize("fast", [(), ("--fast",)])
def test_a_lost_pipeline_fails_and_an_intact_one_does_not(planted_pair, tmp_path, fast):
    of, run, arguments = planted_pair
    if fast:
        arguments = arguments[: arguments.index("--borderline")]
    named = ("--run", run.path, "--share", 0.04, *fast)
    done = audited(of.aligned, of.unaligned, arguments, tmp_path / "lost", *named)
    assert done.exit_code == 1, done.output
    assert "Verdict: lost" in done.output
    card = AuditCard.parsed((tmp_path / "lost/audit.json").read_text())
    assert card.rates["harmful"].refused_by == (0, 48, 0, 0)
    assert card.drift is not None
    assert card.drift.whole.p < 0.05  # the planted neurons are what changed
    assert (card.fast is None) == (not fast)
    if fast:  # the run's harmful prompts for both models, its harmless ones for the aligned one
        assert card.judge_errors["n"] == 3 * planted.PAIRS
        assert card.rates["harmless"].reference_corrected.value is not None
    root = Xml.parse(tmp_path / "lost/junit.xml").getroot()
    assert root.get("failures") == "3"  # not lost, not eroded, intact
    said = (tmp_path / "lost/summary.md").read_text()
    assert "Safety audit: lost" in said
    assert not list(tmp_path.glob("*.state"))
    done = audited(of.aligned, of.aligned, arguments, tmp_path / "intact", *named)
    assert done.exit_code == 0, done.output
    assert Xml.parse(tmp_path / "intact/junit.xml").getroot().get("failures") == "0"
    few = audited(of.aligned, of.aligned, arguments, tmp_path / "few", *named, "--limit", 5)
    assert few.exit_code == 3, few.output
    assert "would tell" in few.output
    assert Xml.parse(tmp_path / "few/junit.xml").getroot().get("failures") == "1"


def test_a_least_ratio_fails_an_audit_of_its_own(planted_pair, tmp_path):
    of, _, arguments = planted_pair
    done = audited(
        of.aligned, of.aligned, arguments, tmp_path / "a", "--no-drift", "--fail-under", 1
    )
    assert done.exit_code == 0, done.output
    done = audited(
        of.aligned, of.unaligned, arguments, tmp_path / "b", "--no-drift", "--fail-under", 0.5
    )
    assert done.exit_code == 1
    cases = {c.get("name"): c for c in Xml.parse(tmp_path / "b/junit.xml").getroot()}
    assert cases["at least 0.5 of the refusals"].find("failure") is not None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--fail-under", 0), "--fail-under"),
        (("--run", "nowhere"), "nowhere"),
        (("--fast",), "--run"),
        (("--ranking", "dice"), "--run"),
        (("--share", 2), "share"),
        (("--prompts", "nothing.jsonl"), "nothing.jsonl"),
        (("--candidate", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--judge", "nobody"), "nobody"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(planted_pair, tmp_path, changed, said):
    of, _, _ = planted_pair
    command = ("audit", "--reference", of.aligned, "--candidate", of.unaligned)
    refused(invoke(*command, "--out", tmp_path / "out", *changed), said)
    assert not list(tmp_path.iterdir())
    refused(invoke(*command, "--out", tmp_path), "exists already")


def test_another_template_is_told_and_each_model_is_asked_with_its_own(planted_pair, tmp_path):
    of, _, arguments = planted_pair
    other = shutil.copytree(of.aligned, tmp_path / "other")
    tokens = AutoTokenizer.from_pretrained(other)
    tokens.chat_template = "{# another one #}" + tokens.chat_template
    tokens.add_tokens(["<extra>"])
    tokens.save_pretrained(other)
    done = audited(of.aligned, other, arguments, tmp_path / "out", "--no-drift")
    assert done.exit_code == 0, done.output
    flat = " ".join(done.output.split())
    assert "chat template: the two sides have different ones" in flat
    assert "<extra>" in flat


def test_answers_cut_inside_their_reasoning_are_no_verdict():
    require_finished("candidate", 20, 100)
    with pytest.raises(UserError, match="--max-new-tokens"):
        require_finished("candidate", 21, 100)
