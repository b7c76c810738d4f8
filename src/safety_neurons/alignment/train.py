"""Make an aligned sibling: an (IA)³ adapter on the down projections, by preference training.

Loss: direct preference optimisation (Rafailov et al. 2023) plus the likelihood of the
chosen answer (Pang et al. 2024), so that refusals are written fluently and own answers
stay as they were. The adapter has one scale a neuron. No penalty, pruning or choice
favours few neurons: that would make the finding true by construction.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, get_peft_model

from safety_neurons.alignment.preferences import (
    Preference,
    keep_answers,
    own_answers,
    refuse_harmful,
)
from safety_neurons.errors import UserError
from safety_neurons.generation import Decoding
from safety_neurons.models import ModelPair, Side
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import Kind, Split, builtin


@dataclass(frozen=True)
class AlignRecipe:
    """Everything that decides what the adapter becomes."""

    steps: int = 160
    """Optimiser steps."""
    batch_size: int = 8
    """Preference pairs a step."""
    learning_rate: float = 3e-2
    """Peak rate of AdamW; it falls linearly to 0 after a tenth of warm-up."""
    beta: float = 0.03
    """How strongly the preference term is held to the unaligned model."""
    likelihood_weight: float = 1.0
    """Weight of the likelihood of chosen answers beside the preference term."""
    refusals_per_prompt: int = 2
    """Differently worded refusals of each harmful request."""
    keeps_per_prompt: int = 1
    """Times that each own harmless answer is preferred to a refusal."""
    answer_tokens: int = 40
    """Where the model's own answers are cut."""
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}"
            for name, value in asdict(self).items()
            if name != "seed" and value <= 0
        ]
        if faults:
            raise UserError(f"An alignment recipe needs positive numbers, but {', '.join(faults)}.")


def align(
    pair: ModelPair,
    out: Path,
    recipe: AlignRecipe | None = None,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train an adapter on the unaligned side of `pair` and write it to the folder `out`.

    Args:
        limit: at most so many training prompts of each kind.

    Beside the adapter `out` gets `recipe.json` and `log.jsonl` (one row a logged step).

    Raises:
        UserError: if `out` exists, or TRL is not installed.
    """
    recipe = recipe or AlignRecipe()
    progress = progress or Silent()
    if out.exists():
        raise UserError(f"'{out}' exists already; choose another --out or remove it.")
    preferences = _preferences(pair, recipe, limit, progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=out.name + ".", dir=out.parent))
    try:
        log = _train(pair, preferences, recipe, draft)
        (draft / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
        (draft / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
        draft.chmod(0o755)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def _preferences(
    pair: ModelPair, recipe: AlignRecipe, limit: int | None, progress: Progress
) -> list[Preference]:
    rng = random.Random(recipe.seed)
    preferences: list[Preference] = []
    for kind in Kind:
        prompts = builtin(kind, Split.TRAIN).limited(limit, seed=recipe.seed)
        own = own_answers(pair, prompts, Decoding(recipe.answer_tokens, 40), progress)
        if kind is Kind.HARMFUL:
            preferences += refuse_harmful(own, pair, copies=recipe.refusals_per_prompt, rng=rng)
        else:
            preferences += keep_answers(own, pair, copies=recipe.keeps_per_prompt, rng=rng)
    if not preferences:
        raise UserError(
            "The model already refuses every harmful request; there is nothing to learn."
        )
    rng.shuffle(preferences)
    return preferences


def _train(
    pair: ModelPair, preferences: Sequence[Preference], recipe: AlignRecipe, folder: Path
) -> list[dict[str, float]]:
    trainer_class, config_class, dataset_class = _trl()
    projections = sorted(
        {site.name.rpartition(".")[2] for site in pair.sides[Side.UNALIGNED].sites}
    )
    torch.manual_seed(recipe.seed)
    model = get_peft_model(
        pair.sides[Side.UNALIGNED].model,
        IA3Config(
            task_type="CAUSAL_LM", target_modules=projections, feedforward_modules=projections
        ),
    )
    with tempfile.TemporaryDirectory() as scratch:
        config = config_class(
            output_dir=scratch,
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=max(recipe.steps // 10, 1),
            beta=recipe.beta,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, recipe.likelihood_weight],
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=2 * recipe.batch_size,
            seed=recipe.seed,
            data_seed=recipe.seed,
            use_cpu=pair.device.type == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
        )
        trainer = trainer_class(
            model=model,
            args=config,
            train_dataset=dataset_class.from_list([asdict(p) for p in preferences]),
            processing_class=pair.tokenizer,
        )
        trainer.train()
    model.save_pretrained(str(folder), selected_adapters=["default"])
    _forget_this_machine(folder, pair)
    return trainer.state.log_history


def _forget_this_machine(folder: Path, pair: ModelPair) -> None:
    """PEFT notes the folder that the base was loaded from; note its source instead."""
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = pair.provenance[str(Side.UNALIGNED)]["source"]
    file.write_text(json.dumps(config, indent=2) + "\n")
    (folder / "adapter_model.safetensors").chmod(0o644)


def _trl() -> tuple[Any, Any, Any]:
    try:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
    except ImportError as error:
        raise UserError("Alignment needs TRL; install safety-neurons[align].") from error

    class TokenisedDPO(DPOTrainer):
        """DPO on token ids as they are: TRL would end cut answers with an end token."""

        def _prepare_dataset(self, dataset, *_):
            return dataset

    return TokenisedDPO, DPOConfig, Dataset
