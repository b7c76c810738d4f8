"""Alignment on a tiny model: preferences are what they say, and training moves the adapter."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, perplexities
from safety_neurons.interventions import Patch
from safety_neurons.judges import RefusalJudge, Verdict
from safety_neurons.models import LoadedModel, ModelPair, embedded
from safety_neurons.progress import Silent
from safety_neurons.prompts import Kind, Split, builtin
from safety_neurons.studies import checkpoint
from safety_neurons.studies.alignment import (
    AdapterKind,
    AlignRecipe,
    Modules,
    align,
    evaluate,
    recipe_for,
    state,
    train,
)
from safety_neurons.studies.alignment.preferences import keep_answers, own_answers, refuse_harmful
from safety_neurons.studies.alignment.refusals import OPENINGS, compose
from safety_neurons.units import UnitSet
from tests.commands import Interrupting
from tests.tiny import EOS, LAYERS, load, tokenizer

IA3 = recipe_for(AdapterKind.IA3)
CATEGORIES = sorted({p.category for p in builtin(Kind.HARMFUL, Split.TRAIN)})


def test_composed_refusals_are_refusals_in_many_wordings():
    rng = random.Random(0)
    refusals = [compose(c, rng) for c in CATEGORIES for _ in range(100)]
    verdicts = RefusalJudge()(["Do it."] * len(refusals), refusals)
    assert verdicts.count(Verdict.REFUSAL) == len(refusals)
    assert len(set(refusals)) > 950
    assert len(OPENINGS) >= 20


def loaded(source: object) -> LoadedModel:
    return LoadedModel.load(str(source), dtype=torch.float32, device="cpu")


def test_preferences_prefer_refusing_harm_and_keeping_own_answers(zoo):
    model = loaded(zoo.source("llama", None))
    decoding = Decoding(max_new_tokens=4, batch_size=4)
    rng = random.Random(0)
    harmful = own_answers(model, builtin(Kind.HARMFUL, Split.TRAIN).limited(3), decoding, Silent())
    for preference in refuse_harmful(harmful, model, copies=2, rng=rng):
        assert preference.prompt_ids in harmful.encoded
        assert preference.rejected_ids in harmful.answers
        assert preference.chosen_ids[-1] == model.tokenizer.eos_token_id
    harmless = own_answers(
        model, builtin(Kind.HARMLESS, Split.TRAIN).limited(3), decoding, Silent()
    )
    kept = keep_answers(harmless, model, copies=1, rng=rng)
    assert kept
    assert all(preference.chosen_ids in harmless.answers for preference in kept)


def test_align_writes_an_adapter_that_a_pair_can_use(zoo, tmp_path):
    source = zoo.source("llama", None)
    fresh = loaded(source)
    recipe = replace(IA3, steps=2, batch_size=2, answer_tokens=4, learning_rate=0.1)
    folder = align(fresh, tmp_path / "adapter", recipe, limit=2)
    scales = load_file(folder / "adapter_model.safetensors")
    assert len(scales) == LAYERS
    assert all((scale - 1).abs().max() > 1e-3 for scale in scales.values())
    assert json.loads((folder / "recipe.json").read_text())["steps"] == 2
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2]
    assert log[0]["margin"] == pytest.approx(0, abs=1e-5)  # nothing is learned before a step
    assert log[1]["margin"] != 0
    read = torch.tensor([[1, 9, 8]])
    bare, left = load(source)(read).logits, fresh.hooked.model(read).logits
    torch.testing.assert_close(left.double(), bare, rtol=0, atol=1e-4)
    pair = ModelPair.load(f"{source}+{folder}", source, dtype=torch.float32, device="cpu")
    assert pair.shared
    rates = evaluate(pair, folder, limit=2)
    assert rates["aligned, harmful"]["n"] == 2
    with pytest.raises(UserError, match="exists already"):
        align(fresh, folder, recipe)


@pytest.mark.parametrize(
    ("architecture", "modules", "changed"),
    [
        (
            "llama",
            Modules.ALL,
            {*(f"{x}_proj" for x in "qkvo"), "gate_proj", "up_proj", "down_proj"},
        ),
        ("llama", Modules.MLP_IN, {"gate_proj", "up_proj"}),
        ("gpt2", Modules.ALL, {"c_attn", "c_proj", "c_fc"}),
        ("gpt2", Modules.MLP_IN, {"c_fc"}),
        ("gpt_neox", Modules.MLP_IN, {"dense_h_to_4h"}),
    ],
)
def test_a_lora_changes_the_modules_that_were_asked_for(
    zoo, tmp_path, architecture, modules, changed
):
    source = zoo.source(architecture, None)
    model = loaded(source)
    recipe = replace(
        recipe_for(AdapterKind.LORA, modules), steps=2, batch_size=2, answer_tokens=4, rank=2
    )
    folder = align(model, tmp_path / "adapter", recipe, limit=2)
    weights = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}  # half the bytes
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in weights} == changed
    left = model.hooked.model
    read = torch.tensor([[1, 9, 8]])
    bare, moved = load(source)(read).logits, load(source, folder)(read).logits
    torch.testing.assert_close(left(read).logits.double(), bare, rtol=0, atol=1e-4)
    assert not torch.allclose(moved, bare, atol=1e-6)
    assert ModelPair.load(f"{source}+{folder}", source, dtype=torch.float32, device="cpu").shared


def test_all_neurons_of_a_lora_that_computes_neurons_are_all_of_it(zoo, tmp_path):
    """So the ceiling is 1 by construction: patched at all neurons, one model is the other."""
    source = zoo.source("llama", None)
    recipe = AlignRecipe(steps=3, batch_size=2, answer_tokens=4, rank=2, learning_rate=0.05)
    folder = align(loaded(source), tmp_path / "adapter", recipe, limit=2)
    pair = ModelPair.load(f"{source}+{folder}", source, dtype=torch.float64, device="cpu")
    prompts = [[1, 9, 8, 7], [1, 5, 4]]
    every = UnitSet.of(torch.arange(pair.space().total), pair.space())
    patched = Setting(Side.UNALIGNED, (Patch(every),))
    settings = [Setting(Side.ALIGNED), Setting(Side.UNALIGNED), patched]
    texts = [[5, 6, 7], [9, 9]]
    aligned, unaligned, moved = perplexities(
        pair, prompts, texts, dict(enumerate(settings)), Decoding()
    ).values()
    assert moved == pytest.approx(aligned, rel=1e-9)
    assert unaligned != pytest.approx(aligned, rel=1e-6)


@pytest.mark.parametrize("adapter", AdapterKind)
@pytest.mark.parametrize("at", ["Own (builtin/harmless", "Likelihoods", "Training"])
def test_a_stopped_training_goes_on_and_gives_the_same_adapter(
    zoo, tmp_path, monkeypatch, adapter, at
):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0)
    source = zoo.source("llama", None)
    recipe = replace(recipe_for(adapter), steps=6, batch_size=2, answer_tokens=4)
    whole = align(loaded(source), tmp_path / "whole", recipe, limit=4)
    out = tmp_path / "stopped"
    model = loaded(source)
    with pytest.raises(KeyboardInterrupt):
        align(model, out, recipe, limit=4, progress=Interrupting(at, int(not at.startswith("Own"))))
    assert not out.exists()
    heard = Listening()
    align(model, out, recipe, limit=4, progress=heard)
    if at == "Training":
        assert heard.done["Training"] == 1
        assert heard.done["Likelihoods before training"] > 0
    for name in ("adapter_model.safetensors", "log.jsonl", "recipe.json", "adapter_config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]


class Listening(Silent):
    """Remembers how far each loop was when it began."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def track(self, items, label, *, done=0):
        self.done[label] = done
        return iter(items)


@pytest.mark.parametrize("damage", ["cut", "other", "changed"])
def test_a_checkpoint_that_is_damaged_or_of_another_training_is_not_used(
    zoo, tmp_path, monkeypatch, damage
):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0)
    source = zoo.source("llama", None)
    recipe = AlignRecipe(steps=4, batch_size=2, answer_tokens=4, rank=2)
    whole = align(loaded(source), tmp_path / "whole", recipe, limit=2)
    out = tmp_path / "stopped"
    first = replace(recipe, seed=1) if damage == "other" else recipe
    with pytest.raises(KeyboardInterrupt):
        align(loaded(source), out, first, limit=2, progress=Interrupting("Training", 2))
    file = tmp_path / "stopped.training" / "checkpoint.safetensors"
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-8])
    if damage == "changed":
        file.write_bytes(content[:-4] + b"\0\0\0\x40")
    heard = Listening()
    align(loaded(source), out, recipe, limit=2, progress=heard)
    assert heard.done["Training"] == 0
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_two_trainings_of_one_adapter_do_not_mix(zoo, tmp_path):
    model = loaded(zoo.source("llama", None))
    out = tmp_path / "adapter"
    with (
        state.TrainingState.beside(out),
        pytest.raises(UserError, match="Another command is training"),
    ):
        align(model, out, AlignRecipe(steps=1), limit=1)


def test_an_ia3_adapter_has_no_choice_of_modules():
    with pytest.raises(UserError, match="--adapter lora"):
        recipe_for(AdapterKind.IA3, Modules.ALL)


def test_training_makes_the_preferred_completions_likelier(zoo, tmp_path):
    """The tiny tokenizer cannot tell the prompts apart, so only likelihood can be learned."""
    source = zoo.source("llama", None)
    model = loaded(source)
    recipe = replace(IA3, steps=20, batch_size=4, answer_tokens=4, learning_rate=0.05)
    folder = align(model, tmp_path / "adapter", recipe, limit=2)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    nats = [row["chosen_nats_per_token"] for row in log]
    assert sum(nats[-5:]) < 0.9 * sum(nats[:5])


def test_a_model_with_an_adapter_is_not_aligned_as_if_it_had_none(zoo, tmp_path):
    source = zoo.source("llama", "lora")
    model = loaded(source)
    with pytest.raises(UserError, match="has an adapter"):
        align(model, tmp_path / "adapter")


def test_a_recipe_without_steps_is_refused():
    with pytest.raises(UserError, match="steps is 0"):
        AlignRecipe(steps=0)


@pytest.mark.parametrize(
    ("name", "largest"), [(embedded.ALIGNED, 1.1e6), (embedded.ALIGNED_IA3, 2.5e5)]
)
def test_the_shipped_adapters_are_small_and_have_their_recipe_and_log(name, largest):
    folder = embedded.adapter_folder(name)
    assert (folder / "adapter_model.safetensors").stat().st_size < largest
    for file in ("adapter_config.json", "recipe.json", "log.jsonl", "evaluation.json"):
        assert (folder / file).is_file(), file
    recipe = json.loads((folder / "recipe.json").read_text())
    assert len((folder / "log.jsonl").read_text().splitlines()) == recipe["steps"]


def test_the_shipped_lora_is_what_the_defaults_train():
    folder = embedded.adapter_folder()
    assert AlignRecipe(**json.loads((folder / "recipe.json").read_text())) == AlignRecipe()
    changed = {name.split(".")[-3] for name in load_file(folder / "adapter_model.safetensors")}
    assert changed == {"gate_proj", "up_proj"}  # so that all it changes passes through the neurons


def test_no_neuron_of_the_shipped_ia3_was_chosen_by_hand():
    folder = embedded.adapter_folder(embedded.ALIGNED_IA3)
    scales = load_file(folder / "adapter_model.safetensors")
    assert sum(scale.numel() for scale in scales.values()) == 30 * 1536
    # Training moved nearly all scales.
    moved = torch.cat([(scale - 1).abs().flatten() > 1e-4 for scale in scales.values()])
    assert moved.float().mean() > 0.9


@pytest.mark.parametrize("name", ["learning_rate", "beta", "likelihood_weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_recipe_of_no_numbers_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name} is {value}"):
        AlignRecipe(**{name: value})
    with pytest.raises(UserError, match="at most 10"):
        AlignRecipe(learning_rate=1e30)


def test_a_training_that_leaves_the_numbers_writes_nothing(zoo, tmp_path, monkeypatch):
    source = zoo.source("llama", None)
    fresh = loaded(source)
    recipe = AlignRecipe(steps=5, batch_size=2, answer_tokens=4)
    plain = train._log_likelihoods

    def overflowing(pair, batch):
        found, tokens = plain(pair, batch)
        return (found * torch.inf if torch.is_grad_enabled() else found), tokens

    monkeypatch.setattr(train, "_log_likelihoods", overflowing)
    with pytest.raises(UserError, match=r"left the finite numbers in step \d"):
        align(fresh, tmp_path / "adapter", recipe, limit=2)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.training"]  # and no adapter


def test_a_place_that_cannot_be_written_is_told_before_the_training(zoo, tmp_path):
    (tmp_path / "file").touch()
    source = zoo.source("llama", None)
    fresh = loaded(source)
    with pytest.raises(UserError, match="cannot be written"):
        align(fresh, tmp_path / "file" / "adapter", AlignRecipe(steps=1), limit=1)


def test_a_tokenizer_without_pad_and_end_tokens(zoo, tmp_path):
    """Some have none; the model's own end token ends an answer, and padding is any token."""
    base = shutil.copytree(zoo.base("llama"), tmp_path / "base")
    words = tokenizer()
    words.eos_token = words.pad_token = None
    words.save_pretrained(base)
    model = loaded(base)
    assert model.tokenizer.eos_token_id is model.tokenizer.pad_token_id is None
    assert model.end_tokens == {EOS}
    prompts = builtin(Kind.HARMFUL, Split.TRAIN).limited(3)
    own = own_answers(model, prompts, Decoding(4, 4), Silent())
    for preference in refuse_harmful(own, model, copies=1, rng=random.Random(0)):
        assert preference.chosen_ids[-1] == EOS
    align(model, tmp_path / "adapter", AlignRecipe(steps=1, batch_size=2, answer_tokens=4), limit=2)


def test_a_model_without_any_end_token(zoo, tmp_path):
    base = Path(shutil.copytree(zoo.base("llama"), tmp_path / "base"))
    words = tokenizer()
    words.eos_token = words.pad_token = None
    words.save_pretrained(base)
    for name in ("config.json", "generation_config.json"):
        content = {**json.loads((base / name).read_text()), "eos_token_id": None}
        (base / name).write_text(json.dumps({**content, "pad_token_id": None}))
    model = loaded(base)
    assert model.end_tokens == frozenset()
    prompts = builtin(Kind.HARMFUL, Split.TRAIN).limited(3)
    own = own_answers(model, prompts, Decoding(4, 4), Silent())
    assert [len(answer) for answer in own.answers] == [4, 4, 4]
