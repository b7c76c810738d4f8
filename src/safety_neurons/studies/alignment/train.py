"""Make an aligned sibling by preference training: a LoRA, or an (IA)³ adapter.

Loss: direct preference optimisation (Rafailov et al. 2023) plus the likelihood of the
chosen answer (Pang et al. 2024), so that refusals are written fluently and own answers
stay as they were. A LoRA of the projections that compute the neurons, or an (IA)³ adapter with
one scale a neuron, leave the models different in their neurons alone; a LoRA of all attention and
MLP projections does not. No penalty, pruning or choice favours few neurons: that would make the
finding true by construction.

What is made on the way is kept (`state.py`), so that a stopped training goes on where it was and
gives the same adapter.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from safety_neurons.engine import ALONE
from safety_neurons.environment import versions
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding
from safety_neurons.inference.likelihood import log_likelihoods
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import Kind, Split, builtin
from safety_neurons.storage import (
    RowLog,
    digest,
    require_place,
    whole_folder,
    write_json,
    write_jsonl,
)
from safety_neurons.studies.alignment.preferences import (
    Preference,
    keep_answers,
    own_answers,
    refuse_harmful,
)
from safety_neurons.studies.alignment.recipe import AdapterKind, AlignRecipe, Modules
from safety_neurons.studies.alignment.state import TrainingState
from safety_neurons.studies.checkpoint import Checkpoint
from safety_neurons.units import SiteKind


def align(
    model: LoadedModel,
    out: Path,
    recipe: AlignRecipe | None = None,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train an adapter of `model` and write it to the folder `out`.

    A stopped training goes on where it was when it is asked for again.

    Args:
        limit: at most so many training prompts of each kind.

    Returns:
        The folder `out`: beside the adapter it has `recipe.json` and `log.jsonl` (one row a step).

    Raises:
        UserError: if `out` exists, another command trains it, the model has an adapter already, or
            refuses every harmful request already.
    """
    recipe = recipe or AlignRecipe()
    progress = progress or Silent()
    if out.exists():
        raise UserError(f"'{out}' exists already; choose another --out or remove it.")
    if model.hooked.adapter is not None:
        raise UserError(
            f"Alignment starts from a whole model, but '{model.provenance['source']}' "
            "has an adapter; merge it into a checkpoint first."
        )
    require_place(out, folder=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TrainingState.beside(out) as state:
        preferences = _preferences(model, recipe, limit, state, progress)
        with whole_folder(out) as draft:
            log = _train(model, preferences, recipe, state, draft, progress)
            write_json(draft / "recipe.json", asdict(recipe))
            write_jsonl(draft / "log.jsonl", log)
    return out


def _preferences(
    model: LoadedModel,
    recipe: AlignRecipe,
    limit: int | None,
    state: TrainingState,
    progress: Progress,
) -> list[Preference]:
    rng = random.Random(recipe.seed)
    preferences: list[Preference] = []
    for kind in Kind:
        prompts = builtin(kind, Split.TRAIN).limited(limit, seed=recipe.seed)
        own = own_answers(
            model, prompts, Decoding(recipe.answer_tokens, 40), progress, kept=state.path
        )
        if kind is Kind.HARMFUL:
            preferences += refuse_harmful(own, model, copies=recipe.refusals_per_prompt, rng=rng)
        else:
            preferences += keep_answers(own, model, copies=recipe.keeps_per_prompt, rng=rng)
    if not preferences:
        raise UserError(
            "The model already refuses every harmful request; there is nothing to learn."
        )
    rng.shuffle(preferences)
    return preferences


def _train(
    model: LoadedModel,
    preferences: Sequence[Preference],
    recipe: AlignRecipe,
    state: TrainingState,
    folder: Path,
    progress: Progress,
) -> list[dict[str, float]]:
    plan = digest(
        [asdict(preference) for preference in preferences],
        asdict(recipe),
        model.identity,
        str(model.dtype),
        model.device.type,
        versions(),
    )
    reference = _reference(model, preferences, recipe, state, plan, progress)
    checkpoint = Checkpoint(state.file("checkpoint.safetensors"), plan)
    # A LoRA begins at random values, and they belong to the recipe.
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        adapted = get_peft_model(model.hooked.model, _config(model, recipe))
    try:
        log = _optimise(model, preferences, reference, recipe, checkpoint, progress)
        if recipe.adapter is AdapterKind.LORA:
            # Half the file. Scales of (IA)³ stay as they are: they are few and precious.
            for weights in (p for p in adapted.parameters() if p.requires_grad):
                weights.data = weights.data.half()
        adapted.save_pretrained(str(folder), selected_adapters=["default"])
    finally:
        adapted.unload()
    _forget_this_machine(folder, model)
    return log


def _config(model: LoadedModel, recipe: AlignRecipe) -> PeftConfig:
    read_by = [site.name for site in model.hooked.sites if site.key.site is SiteKind.MLP]
    if recipe.adapter is AdapterKind.LORA:
        return LoraConfig(
            task_type="CAUSAL_LM",
            target_modules="all-linear"
            if recipe.modules is Modules.ALL
            else _computing_neurons(model.hooked.model, read_by),
            r=recipe.rank,
            lora_alpha=2 * recipe.rank,
        )
    projections = sorted({name.rpartition(".")[2] for name in read_by})
    return IA3Config(
        task_type="CAUSAL_LM", target_modules=projections, feedforward_modules=projections
    )


def _computing_neurons(model: nn.Module, read_by: Sequence[str]) -> list[str]:
    """Names of the projections of each MLP but the one that reads its neurons: gate and up.

    Args:
        read_by: names of the down projections.

    Returns:
        Whole names, so that no other module of the same last name is meant.

    Raises:
        UserError: if an MLP has none.
    """
    names = []
    for down in read_by:
        mlp, _, last = down.rpartition(".")
        down_type = type(model.get_submodule(down))
        found = [
            f"{mlp}.{name}"
            for name, module in model.get_submodule(mlp).named_children()
            if name != last and isinstance(module, down_type)
        ]
        if not found:
            raise UserError(
                f"'{mlp}' has no projection beside '{last}' that computes its neurons; align "
                "with --modules all, or --adapter ia3."
            )
        names += found
    return names


def _optimise(
    model: LoadedModel,
    preferences: Sequence[Preference],
    reference: Float[Tensor, "preference 2"],
    recipe: AlignRecipe,
    checkpoint: Checkpoint,
    progress: Progress,
) -> list[dict[str, float]]:
    """Train what of the model can be trained; returns a row of figures for each step."""
    trained = {name: p for name, p in model.hooked.model.named_parameters() if p.requires_grad}
    weights = list(trained.values())
    optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    warm_up = max(recipe.steps // 10, 1)
    log = checkpoint.restore(trained, optimiser)
    done = len(log)
    order = islice(_endless_order(len(preferences), recipe.seed), done * recipe.batch_size, None)
    for step in progress.track(range(done, recipe.steps), "Training", done=done):
        rate = recipe.learning_rate * min((step + 1) / warm_up, 1 - step / recipe.steps)
        optimiser.param_groups[0]["lr"] = rate
        batch = [next(order) for _ in range(recipe.batch_size)]
        loss, figures = _loss(model, [preferences[i] for i in batch], reference[batch], recipe)
        optimiser.zero_grad()
        loss.backward()
        length = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(length)):
            raise UserError(
                f"The training left the finite numbers in step {step + 1} (loss {loss.item():g}); "
                "give a smaller --learning-rate, or another --dtype."
            )
        optimiser.step()
        log.append({"step": step + 1, "learning_rate": rate, **figures})
        checkpoint.save(trained, optimiser, log)
    return log


def _loss(
    model: LoadedModel,
    batch: Sequence[Preference],
    reference: Float[Tensor, "batch 2"],
    recipe: AlignRecipe,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    found, tokens = _log_likelihoods(model, batch)
    gained = found - reference
    margin = recipe.beta * (gained[:, 0] - gained[:, 1])
    preference = -logsigmoid(margin).mean()
    surprise = -found[:, 0].sum() / tokens[:, 0].sum()
    figures = {
        "preference_loss": preference,
        "chosen_nats_per_token": surprise,
        "margin": margin.mean(),
        "accuracy": (margin > 0).float().mean(),
    }
    loss = preference + recipe.likelihood_weight * surprise
    return loss, {name: round(value.item(), 4) for name, value in figures.items()}


@torch.no_grad()
def _reference(
    model: LoadedModel,
    preferences: Sequence[Preference],
    recipe: AlignRecipe,
    state: TrainingState,
    plan: str,
    progress: Progress,
) -> Float[Tensor, "preference 2"]:
    """Log-likelihoods of chosen and rejected completions before training."""
    batches = Decoding(batch_size=2 * recipe.batch_size).batches(
        [preference.prompt_ids for preference in preferences]
    )
    log = RowLog(state.file(f"likelihoods-{plan}.jsonl"))
    known = {row["preference"]: row["nats"] for row in log.rows}
    todo = [batch for batch in batches if not known.keys() >= set(batch)]
    label = "Likelihoods before training"
    for batch in progress.track(todo, label, done=len(batches) - len(todo)):
        found, _ = _log_likelihoods(model, [preferences[i] for i in batch])
        rows = dict(zip(batch, found.tolist(), strict=True))
        known.update(rows)
        log.extend({"preference": i, "nats": nats} for i, nats in rows.items())
    return torch.tensor([known[i] for i in range(len(preferences))], device=model.device)


def _log_likelihoods(model: LoadedModel, batch: Sequence[Preference]) -> tuple[Tensor, Tensor]:
    return log_likelihoods(
        model, ALONE, [p.prompt_ids for p in batch], [(p.chosen_ids, p.rejected_ids) for p in batch]
    )


def _endless_order(count: int, seed: int) -> Iterator[int]:
    """All of `count` preferences in a random order, again and again."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(count), count)


def _forget_this_machine(folder: Path, model: LoadedModel) -> None:
    """PEFT notes the folder that the base was loaded from; note its source instead."""
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = model.provenance["source"]
    file.write_text(json.dumps(config, indent=2) + "\n")
    (folder / "adapter_model.safetensors").chmod(0o644)
