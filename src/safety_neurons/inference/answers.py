"""Answers to many prompts, in batches, kept as they are made so that a stop loses little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from safety_neurons import defaults
from safety_neurons.engine import ModelGroup
from safety_neurons.environment import versions
from safety_neurons.errors import UserError
from safety_neurons.inference.decoding import Completion, decode
from safety_neurons.inference.settings import Setting
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, PromptSet, decode_text, encode_all, reopened
from safety_neurons.storage import RowLog, digest

_ROWS_PER_PROMPT = 4
"""Rows of a pass for each prompt of a full batch; with more, caches outgrow what is won."""

_SETTINGS_AT_ONCE = 8
"""The donor reads a prompt once for so many settings; with more, little is left to win."""


@dataclass(frozen=True)
class Decoding:
    """How completions are written."""

    max_new_tokens: int = defaults.MAX_NEW_TOKENS
    batch_size: int = defaults.BATCH_SIZE
    """The most prompts read together."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise UserError(
                "Answers need at least 1 new token and batches at least 1 prompt, but "
                f"{self.max_new_tokens} and {self.batch_size} were given."
            )

    def batches(self, prompts: Sequence[Sequence[int]], *, settings: int = 1) -> list[list[int]]:
        """Positions of prompts, in even batches of similar length, the same at every run.

        Args:
            settings: under how many each prompt is answered in the same pass.

        Returns:
            Of each batch, the places of its prompts in `prompts`, shorter prompts first.
        """
        by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        rows = _ROWS_PER_PROMPT * self.batch_size
        return _evenly(by_length, min(self.batch_size, max(rows // settings, 1)))


def _evenly(items: Sequence[int], most: int) -> list[list[int]]:
    """`items` in as few runs of at most `most` as possible, no run much shorter than another."""
    count = math.ceil(len(items) / most)
    bounds = [len(items) * i // count for i in range(count + 1)] if count else [0]
    return [list(items[start:stop]) for start, stop in pairwise(bounds)]


def encode_prompts(
    group: ModelGroup, prompts: PromptSet, decoding: Decoding, chat: ChatFormat | None = None
) -> list[list[int]]:
    """Token ids of each prompt in the models' chat template.

    Returns:
        One list of ids a prompt, in the order of `prompts`.

    Raises:
        UserError: naming prompts that leave no room for `decoding.max_new_tokens`, that the
            template does not give as they are written, or that hold tokens which a model lacks.
    """
    encoded = encode_all(
        prompts,
        group.tokenizer,
        chat or ChatFormat(),
        context_length=group.context_length,
        max_new_tokens=decoding.max_new_tokens,
    )
    for prompt, ids in zip(prompts, encoded, strict=True):
        if max(ids) >= group.vocabulary:
            raise UserError(
                f"The tokenizer gives token {max(ids)} in the prompt '{prompt.id}' of "
                f"'{prompts.name}', but the models have {group.vocabulary} tokens; give the "
                "tokenizer that belongs to both, with --template-from."
            )
    return encoded


def texts_of(group: ModelGroup, completions: Sequence[Completion], chat: ChatFormat) -> list[str]:
    """Completions as text, without special tokens except those that mark a reasoning.

    Args:
        chat: the format of the prompts; where they end inside a reasoning, the texts begin
            with the marker that opened it.

    Returns:
        One text a completion, in the same order.
    """
    opening = chat.opened(group.tokenizer)
    return [
        reopened(decode_text(group.tokenizer, completion), opening) for completion in completions
    ]


def kept_key(
    group: ModelGroup, prompts: Sequence[Sequence[int]], setting: Setting, decoding: Decoding
) -> str:
    """The name under which answers are kept: everything that decides them, by content.

    Args:
        prompts: token ids, so that the chat template and its arguments are in it.

    Returns:
        A digest of 20 hexadecimal digits.
    """
    return digest(
        prompts,
        setting.key,
        decoding.max_new_tokens,
        decoding.batch_size,
        group.identity,
        sorted(group.end_tokens),
        str(group.dtype),
        group.device.type,
        versions(),
    )


def answer(
    group: ModelGroup,
    prompts: Sequence[Sequence[int]],
    settings: Sequence[Setting],
    decoding: Decoding,
    *,
    logs: Sequence[Path] | None = None,
    progress: Progress | None = None,
    label: str = "Answers",
) -> list[list[Completion]]:
    """Continue all `prompts` (token ids) under each of `settings`, batch by batch.

    Args:
        logs: a file for each setting that keeps finished batches; what is there already is
            not made again.

    Returns:
        For each setting, one completion of each prompt, in the order given.
    """
    kept = [RowLog(log) for log in logs] if logs else [None] * len(settings)
    made: list[dict[int, Completion]] = [
        {row["prompt"]: row["tokens"] for row in log.rows} if log else {} for log in kept
    ]
    every = list(_plan(prompts, settings, decoding))
    todo = [
        (batch, missing)
        for batch, settled in every
        if (missing := [s for s in settled if not made[s].keys() >= set(batch)])
    ]
    progress = progress or Silent()
    for batch, together in progress.track(todo, label, done=len(every) - len(todo)):
        completions = decode(
            group,
            [prompts[i] for i in batch],
            [settings[s] for s in together],
            max_new_tokens=decoding.max_new_tokens,
        )
        for s, of_setting in zip(together, completions, strict=True):
            made[s].update(zip(batch, of_setting, strict=True))
            if log := kept[s]:
                log.extend({"prompt": i, "tokens": made[s][i]} for i in batch)
    return [[of_setting[i] for i in range(len(prompts))] for of_setting in made]


def _plan(
    prompts: Sequence[Sequence[int]], settings: Sequence[Setting], decoding: Decoding
) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of prompts, each with settings that are decoded together on it (positions)."""
    alike: dict[tuple, list[int]] = {}
    for s, setting in enumerate(settings):
        alike.setdefault((setting.recipient, setting.donor), []).append(s)
    for similar in alike.values():
        for together in _evenly(similar, _SETTINGS_AT_ONCE):
            for batch in decoding.batches(prompts, settings=len(together)):
                yield batch, together
