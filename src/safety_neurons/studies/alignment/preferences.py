"""Preference pairs for alignment, as token ids.

On a harmful request a composed refusal is preferred to the model's own answer; on a
harmless or borderline one the model's own answer is preferred to a refusal. So nothing
is learned but when to refuse.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safety_neurons.errors import UserError
from safety_neurons.inference import (
    Completion,
    Decoding,
    Setting,
    answer,
    encode_prompts,
    kept_key,
    texts_of,
)
from safety_neurons.judges import RefusalJudge, Verdict, unfinished, verdicts_on
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, Prompt, PromptSet
from safety_neurons.studies.alignment.refusals import compose


@dataclass(frozen=True)
class Preference:
    """Two completions of one prompt, the first preferred."""

    prompt_ids: list[int]
    chosen_ids: Completion
    rejected_ids: Completion


@dataclass(frozen=True)
class OwnAnswers:
    """Prompts of one kind with what the model itself answers."""

    prompts: PromptSet
    encoded: list[list[int]]
    answers: list[Completion]
    texts: list[str]


def own_answers(
    model: LoadedModel,
    prompts: PromptSet,
    decoding: Decoding,
    progress: Progress,
    *,
    kept: Path | None = None,
) -> OwnAnswers:
    """Greedy answers of the model to `prompts`.

    Args:
        kept: a folder that keeps finished batches; what is there already is not made again.

    Returns:
        The prompts and their token ids, with each answer as token ids and as text.

    Raises:
        UserError: if most of them end inside a reasoning, so that nothing is known of them.
    """
    chat = ChatFormat()
    encoded = encode_prompts(model, prompts, decoding, chat)
    key = kept_key(model, encoded, Setting(), decoding)
    (answers,) = answer(
        model,
        encoded,
        [Setting()],
        decoding,
        logs=[kept / f"answers-{key}.jsonl"] if kept else None,
        progress=progress,
        label=f"Own ({prompts.name})",
    )
    texts = texts_of(model, answers, chat)
    if 2 * unfinished(texts) > len(texts):
        raise UserError(
            f"{unfinished(texts)} of {len(texts)} own answers end inside their reasoning after "
            f"{decoding.max_new_tokens} tokens; align a model that answers without it."
        )
    return OwnAnswers(prompts, encoded, answers, texts)


def refuse_harmful(
    own: OwnAnswers, model: LoadedModel, *, copies: int, rng: random.Random
) -> list[Preference]:
    """`copies` differently worded refusals of each request that the model does not refuse."""
    return [
        Preference(ids, _tokens(model, compose(prompt.category or "", rng)), answer)
        for prompt, ids, answer, verdict in _judged(own)
        if verdict is not Verdict.REFUSAL
        for _ in range(copies)
    ]


def keep_answers(
    own: OwnAnswers, model: LoadedModel, *, copies: int, rng: random.Random
) -> list[Preference]:
    """The model's own answers, each preferred to `copies` refusals; not its own refusals."""
    return [
        Preference(ids, answer, _tokens(model, compose(prompt.category or "", rng)))
        for prompt, ids, answer, verdict in _judged(own)
        if verdict is Verdict.COMPLIANCE
        for _ in range(copies)
    ]


def _judged(own: OwnAnswers) -> Iterable[tuple[Prompt, list[int], Completion, Verdict]]:
    """Each prompt, its token ids, the own answer, and the verdict on it."""
    verdicts = verdicts_on(RefusalJudge(), own.prompts.texts, own.texts)
    return zip(own.prompts, own.encoded, own.answers, verdicts, strict=True)


def _tokens(model: LoadedModel, text: str) -> Completion:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = model.tokenizer.eos_token_id
    if end is None:  # the model may declare one that its tokenizer does not
        return [*ids, *sorted(model.end_tokens)[:1]]
    return [*ids, end]
