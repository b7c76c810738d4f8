"""Texts in which examples of units are looked for: harmless ones, never harmful prompts.

Either prompts that come with this package, with both models' own answers, or any text file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, takewhile, zip_longest
from pathlib import Path

from safety_neurons.engine import ModelGroup, Side
from safety_neurons.errors import UserError, reading
from safety_neurons.inference import Completion, Setting
from safety_neurons.methods.examples import Document
from safety_neurons.prompts import Kind, PromptSet, Split, builtin
from safety_neurons.studies.evaluator import Evaluator

TOKENS = 30_000
"""The most tokens that each model reads, by default."""
ANSWER_TOKENS = 24
"""Where answers are cut."""
CHUNK = 128
"""The most tokens of a file that are read at once."""


@dataclass(frozen=True)
class Corpus:
    """Documents that both models read.

    Args:
        described: what they are and what was left out, for people.
    """

    described: str
    documents: tuple[Document, ...]

    @property
    def tokens(self) -> int:
        """How many each model reads."""
        return sum(len(document.tokens) for document in self.documents)

    @classmethod
    def builtin(cls, evaluator: Evaluator, *, tokens: int = TOKENS) -> Corpus:
        """Harmless and borderline test prompts with the answers of both models of a pair.

        Args:
            evaluator: of a pair; keeps the answers.
            tokens: the most that each model reads; prompts behind that are left out.

        Returns:
            Two documents of each prompt. Of the second, only what differs from the first counts.

        Raises:
            UserError: if not even one prompt fits.
        """
        asked = [builtin(kind, Split.TEST) for kind in (Kind.HARMLESS, Kind.BORDERLINE)]
        in_turn = chain.from_iterable(zip_longest(*asked))
        whole = PromptSet(
            " and ".join(each.name for each in asked), tuple(p for p in in_turn if p is not None)
        )
        writing = evaluator.writing(ANSWER_TOKENS)
        lengths = [len(ids) + ANSWER_TOKENS for ids in writing.encoded(whole)]
        sums = accumulate(len(Side) * length for length in lengths)
        fitting = sum(total <= tokens for total in sums)
        if not fitting:
            raise UserError(
                f"The first prompt has more than {tokens:,} tokens with two answers; give more "
                "--tokens."
            )
        taken = PromptSet(whole.name, whole.prompts[:fitting])
        settings = [Setting(side) for side in Side]
        answers = writing.prepare(taken, settings, "Answers to harmless prompts")
        documents = _with_answers(writing.encoded(taken), answers, evaluator.group.end_tokens)
        which = f"{len(whole):,}" if fitting == len(whole) else f"{fitting:,} of {len(whole):,}"
        return cls(
            f"{which} harmless and borderline prompts of the test split that comes with "
            f"safety-neurons, each with both models’ own answers (at most {ANSWER_TOKENS} tokens)",
            tuple(documents),
        )

    @classmethod
    def of_file(cls, path: Path, group: ModelGroup, *, tokens: int = TOKENS) -> Corpus:
        """The paragraphs of a text file, without a template, in chunks of at most CHUNK tokens.

        Args:
            path: UTF-8; blank lines part paragraphs, and without any each line is one.
            tokens: the most that each model reads; what is behind is left out.

        Returns:
            A document for each chunk.

        Raises:
            UserError: if the file cannot be read, holds no text of two tokens, or tokens that a
                model lacks.
        """
        with reading(path, remedy="give a text file in UTF-8"):
            text = path.read_text(encoding="utf-8-sig")
        paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text.strip())]
        if len(paragraphs) == 1:
            paragraphs = [line.strip() for line in text.splitlines()]
        paragraphs = [part for part in paragraphs if part]
        documents: list[Document] = []
        read, begun, cut = 0, 0, False
        for paragraph in paragraphs:
            for ids, begins in _chunks(group, paragraph, path):
                if cut := read + len(ids) > tokens:
                    break
                read += len(ids)
                documents.append(Document(len(documents), tuple(ids), begins=begins))
            if cut:
                break
            begun += 1
        if not documents:
            raise UserError(
                f"'{path}' holds no text of at least two tokens that fits into {tokens:,}; give "
                "another file, or more --tokens."
            )
        count = len(paragraphs)
        which = "all" if not cut else f"the first {begun:,} and what fits of the next, of"
        return cls(f"{which} {count:,} paragraphs of {path.name}", tuple(documents))


def _with_answers(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Completion]],
    ends: frozenset[int],
) -> Iterator[Document]:
    """A document for each prompt and each of its different answers.

    Args:
        answers: of each model, as many as prompts.

    Yields:
        Those in which anything counts: of a later answer, what differs from earlier ones.
    """
    # What all prompts begin with is the template's; each keeps a token of its own.
    shortest = min(len(prompt) for prompt in prompts)
    begins = min(_common(prompts), shortest - 1)
    number = 0
    for prompt, *of_prompt in zip(prompts, *answers, strict=True):
        earlier: list[list[int]] = []
        for answer in of_prompt:
            whole = [*prompt, *(token for token in answer if token not in ends)]
            counted = max([begins, *(_common([whole, other]) for other in earlier)])
            earlier.append(whole)
            if max(counted, 1) < len(whole):
                yield Document(number, tuple(whole), counted, begins)
                number += 1


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _chunks(group: ModelGroup, text: str, path: Path) -> Iterator[tuple[list[int], int]]:
    """The tokens of a paragraph in parts, each with where the text begins in it."""
    ids = group.tokenizer(text)["input_ids"]
    if max(ids, default=0) >= group.vocabulary:
        raise UserError(
            f"The tokenizer gives token {max(ids)} in '{path}', but the models have "
            f"{group.vocabulary} tokens; give another file."
        )
    head = ids[:1] if ids[:1] == [group.tokenizer.bos_token_id] else []
    rest, size = ids[len(head) :], min(CHUNK, group.context_length) - len(head)
    for start in range(0, len(rest), size):
        chunk = [*head, *rest[start : start + size]]
        if len(chunk) > 1:
            yield chunk, len(head)
