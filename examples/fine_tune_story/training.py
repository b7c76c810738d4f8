"""Fine-tune a model on a task: a LoRA of all linear projections, kept at several steps.

The loss is of the answers alone. Nothing is drawn but the LoRA's beginning and the order of rows,
both from the seed, so that the same command makes the same adapters, to the byte on one machine
with as many threads.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from examples.fine_tune_story.tasks import KEPT, Row, Task
from peft import LoraConfig, PeftModel, get_peft_model

from safety_neurons.engine import ALONE
from safety_neurons.errors import UserError
from safety_neurons.inference.likelihood import log_likelihoods
from safety_neurons.models import LoadedModel
from safety_neurons.models.identity import Contents
from safety_neurons.prompts import ChatFormat
from safety_neurons.storage import digest, remove, whole_folder, write_json, write_jsonl
from safety_neurons.studies.alignment.state import TrainingState
from safety_neurons.studies.checkpoint import Checkpoint

RANK = 8
BATCH_SIZE = 8

Encoded = tuple[list[int], list[int]]
"""Token ids of a prompt, and of its answer with the token that ends it."""


def fine_tune(base: Path, task: Task, out: Path, *, seed: int) -> list[Path]:
    """Train an adapter of the checkpoint `base` on `task`, and keep it at `KEPT` steps.

    What stands in `out` already is not made again; a stopped training goes on where it was.

    Returns:
        The kept adapters, `out/step-NNN`, the earliest first.

    Raises:
        UserError: if `out` holds adapters of another base, task or seed, or another command
            trains them now.
    """
    steps = [task.steps * part // KEPT for part in range(1, KEPT + 1)]
    kept = {step: out / f"step-{step:03}" for step in steps}
    plan = digest(asdict(task), seed, RANK, BATCH_SIZE, Contents.of(base, None).digest)
    _require_same(plan, out)
    with TrainingState.beside(out) as state:
        missing = [step for step in steps if not kept[step].is_dir()]
        if missing:
            if missing != steps[-len(missing) :]:
                # One in the middle was removed: the state, if there is one, is past it.
                remove(state.file("checkpoint.safetensors"))
            for draft in out.glob("step-*.*"):  # left by a stop too sudden to tidy up
                remove(draft)
            checkpoint = Checkpoint(state.file("checkpoint.safetensors"), plan)
            model = LoadedModel.load(str(base), device="cpu")
            name = base.resolve().name
            _describe(name, task, out, seed, plan)
            _train(model, task, {step: kept[step] for step in missing}, checkpoint, name, seed)
    return list(kept.values())


def nats_per_token(model: LoadedModel, rows: Sequence[Row]) -> float:
    """The loss on `rows`, such as the held-out ones, of a model with or without an adapter."""
    with torch.no_grad():
        sums = [_sums(model, batch) for batch in _batches(encode(model, rows))]
    return sum(nats.item() for nats, _ in sums) / sum(tokens for _, tokens in sums)


def encode(model: LoadedModel, rows: Sequence[Row]) -> list[Encoded]:
    """Rows as the model reads them, in its chat template."""
    chat, tokenizer = ChatFormat(), model.tokenizer
    return [
        (
            chat.encode(tokenizer, row.prompt),
            [
                *tokenizer(row.completion, add_special_tokens=False)["input_ids"],
                tokenizer.eos_token_id,
            ],
        )
        for row in rows
    ]


def _require_same(plan: str, out: Path) -> None:
    file = out / "recipe.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8"))["plan"] != plan:
        raise UserError(
            f"'{out}' holds adapters of another base, task or seed; choose another --out."
        )


def _describe(base: str, task: Task, out: Path, seed: int, plan: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", task.train), ("held-out", task.held_out)):
        write_jsonl(out / f"{name}.jsonl", [asdict(row) for row in rows])
    recipe = {
        "task": task.name,
        "base": base,
        "seed": seed,
        "rank": RANK,
        "batch_size": BATCH_SIZE,
        "steps": task.steps,
        "learning_rate": task.learning_rate,
        "plan": plan,
    }
    write_json(out / "recipe.json", recipe)


def _train(
    model: LoadedModel,
    task: Task,
    keep: dict[int, Path],
    checkpoint: Checkpoint,
    base: str,
    seed: int,
) -> None:
    rows = encode(model, task.train)
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules="all-linear", r=RANK, lora_alpha=2 * RANK
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model.hooked.model, config)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=task.learning_rate, weight_decay=0.0)
    log = checkpoint.restore(trained, optimiser)
    order = islice(_endless_order(len(rows), seed), len(log) * BATCH_SIZE, None)
    for step in range(len(log) + 1, task.steps + 1):
        nats, tokens = _sums(model, [rows[next(order)] for _ in range(BATCH_SIZE)])
        loss = nats / tokens
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        log.append({"step": step, "nats_per_token": round(loss.item(), 4)})
        print(f"{task.name}: step {step} of {task.steps}, {loss.item():.3f} nats", flush=True)
        if step in keep:
            _save(adapted, keep[step], base)
        # Behind the adapter, so that no state is past an adapter that is missing.
        checkpoint.save(trained, optimiser, log)


def _sums(model: LoadedModel, batch: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
    """Nats of all answers of a batch, and how many tokens they have."""
    prompts, answers = zip(*batch, strict=True)
    found, tokens = log_likelihoods(model, ALONE, prompts, [(answer,) for answer in answers])
    return -found.sum(), int(tokens.sum())


def _batches(rows: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
    for start in range(0, len(rows), BATCH_SIZE):
        yield rows[start : start + BATCH_SIZE]


def _endless_order(count: int, seed: int) -> Iterator[int]:
    """All of `count` rows in a random order, again and again."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(count), count)


def _save(adapted: PeftModel, folder: Path, base: str) -> None:
    """Write the adapter in half precision, which is half the file, and goes on in float32."""
    half = {name: p.detach().half() for name, p in adapted.named_parameters() if p.requires_grad}
    with whole_folder(folder) as draft:
        adapted.save_pretrained(str(draft), state_dict=half)
        (draft / "README.md").unlink(missing_ok=True)
        file = draft / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        # PEFT notes where on this machine the base was.
        config["base_model_name_or_path"] = base
        write_json(file, config)
        (draft / "adapter_model.safetensors").chmod(0o644)
