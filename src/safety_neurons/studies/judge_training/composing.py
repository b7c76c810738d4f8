"""Answers composed of sentences whose roles are known, in five languages.

Real rows are scarce, hold few kinds of refusal, and are in English. Each language's file has
sentences by role (`decline`, `moral`, `offer`, …), the parts of a grammar that makes more of them
(prefix, negated modal, act, reason), and requests; harmless ones with sentences that answer them.
Which roles stand in an answer decides its label. Nothing here answers a harmful request.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from safety_neurons.judges import Verdict
from safety_neurons.studies.judge_training.rows import LabelledRow, Origin

LANGUAGES = ("en", "fr", "de", "es", "zh")

_HELD_OUT_EVERY = 3
_CUT_SHARE = 0.25


class Templates(StrEnum):
    """Which sentences are used: rows of the two parts share none."""

    ALL = "all"
    TRAIN = "train"
    HELD_OUT = "held-out"


def compose(
    language: str, count: int, *, seed: int = 0, templates: Templates = Templates.ALL
) -> list[LabelledRow]:
    """`count` rows of one language, half of sentences as they are and half of the grammar.

    Args:
        language: one of `LANGUAGES`.

    Returns:
        Rows whose `kind` says what they are composed of.
    """
    composer = _Composer(language, templates, random.Random(f"{language}/{templates}/{seed}"))
    makers = (composer.of_sentences, composer.of_grammar)
    return [makers[i % 2]() for i in range(count)]


@cache
def _parts(language: str) -> dict[str, Any]:
    file = resources.files(__package__) / "data" / f"composed-{language}.json"
    parts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return parts


class _Composer:
    def __init__(self, language: str, templates: Templates, rng: random.Random) -> None:
        self._rng = rng
        self._language = language
        self._space = "" if language == "zh" else " "
        parts = _parts(language)
        self._sentences = {k: _chosen(v, templates) for k, v in parts["sentences"].items()}
        self._grammar = {k: _chosen(v, templates) for k, v in parts["grammar"].items()}
        self._harmful = [r for r in self._sentences["requests"] if r["harmful"]]
        self._harmless = [r for r in self._sentences["requests"] if not r["harmful"]]

    def of_sentences(self) -> LabelledRow:
        """A row of whole sentences."""
        draw = self._rng.random()
        if draw < 0.42:
            return self._refusal()
        return self._partial() if draw < 0.54 else self._compliance()

    def of_grammar(self) -> LabelledRow:
        """A row whose refusing sentences the grammar makes."""
        draw, rng, g = self._rng.random(), self._rng, self._grammar
        safe = lambda: rng.choice(g["safe"])  # noqa: E731
        identity = lambda: rng.choice(g["identity"])  # noqa: E731
        if draw >= 0.58:
            asked = rng.choice(self._harmless)
            parts = self._maybe(0.6, lambda: rng.choice(g["answering"])) + self._help(asked, 2, 5)
            return self._row(Verdict.COMPLIANCE, asked, parts, "grammar: help")
        if draw >= 0.5:
            asked = rng.choice(self._harmless)
            parts = [self._declining(asked), *self._maybe(0.3, self._moralising)]
            parts += self._help(asked, 4, 4)
            return self._row(Verdict.PARTIAL, asked, parts, "grammar: partial")
        morals = self._maybe(0.7, self._moralising) + self._maybe(0.45, self._moralising)
        if draw < 0.25:
            asked = self._any_request()
            parts = [*self._maybe(0.25, identity), self._declining(asked), *morals]
            parts += self._maybe(0.5, safe)
            return self._row(Verdict.REFUSAL, asked, parts, "grammar: decline")
        asked = rng.choice(self._harmful)
        first, kind = (
            (self._moralising(), "grammar: moral")
            if draw < 0.4
            else (identity(), "grammar: identity")
        )
        parts = [first, *morals, *self._maybe(0.55, safe)]
        return self._row(Verdict.REFUSAL, asked, parts, kind)

    def _refusal(self) -> LabelledRow:
        draw = self._rng.random()
        asked = self._any_request() if draw < 0.55 else self._rng.choice(self._harmful)
        one = lambda role: lambda: self._sentence(role, asked)  # noqa: E731
        if draw < 0.4:
            kind, parts = "decline", [*self._maybe(0.2, one("policy")), one("decline")()]
            parts += self._maybe(0.45, one("moral")) + self._maybe(0.3, one("moral"))
        elif draw < 0.55:
            kind, parts = "inability", [*self._maybe(0.3, one("policy")), one("inability")()]
            parts += self._maybe(0.25, one("moral"))
        elif draw < 0.85:
            kind, parts = "moral", [*self._maybe(0.35, one("policy")), one("moral")()]
            parts += self._maybe(0.7, one("moral")) + self._maybe(0.4, one("moral"))
        else:
            kind, parts = "premise", [one("premise")()]
            parts += self._maybe(0.5, one("moral")) + self._maybe(0.4, one("moral"))
        parts += self._maybe(0.4, one("redirect")) + self._maybe(0.33, one("offer"))
        return self._row(Verdict.REFUSAL, asked, parts, kind)

    def _partial(self) -> LabelledRow:
        asked = self._rng.choice(self._harmless)
        one = lambda role: lambda: self._sentence(role, asked)  # noqa: E731
        if self._rng.random() < 0.7:
            role = self._rng.choice(("decline", "decline", "moral"))
            parts = [one(role)(), *self._maybe(0.3, one("moral")), one("bridge")()]
            parts += self._help(asked, 2, 5) + self._maybe(0.2, one("caveat"))
        else:
            parts = self._maybe(0.5, one("start")) + self._help(asked, 1, 4) + [one("before")()]
            parts += self._maybe(0.3, one("moral")) + self._maybe(0.3, one("offer"))
        return self._row(Verdict.PARTIAL, asked, parts, "partial")

    def _compliance(self) -> LabelledRow:
        draw, asked = self._rng.random(), self._rng.choice(self._harmless)
        one = lambda role: lambda: self._sentence(role, asked)  # noqa: E731
        if draw < 0.68:
            kind, parts = (
                "help",
                self._maybe(0.6, one("start")) + self._maybe(0.15, one("negative")),
            )
            parts += self._help(asked, 1, 5)
            parts += self._maybe(0.3, one("negative"))
            parts += self._maybe(0.25, one("caveat")) + self._maybe(0.15, one("offer"))
        elif draw < 0.8:
            kind, parts = "correction", [one("correction")()]
            parts += self._maybe(0.3, one("correction")) + self._maybe(0.35, one("offer"))
        elif draw < 0.87:
            kind, parts = "clarify", [*self._maybe(0.3, one("start")), one("clarify")()]
        elif draw < 0.93:
            asked = self._rng.choice(self._sentences["fiction"])
            kind, parts = "fiction", [asked["answer"]]
        else:
            kind, parts = "negative", [*self._maybe(0.5, one("start")), one("negative")()]
            parts += self._help(asked, 2, 2)
        return self._row(Verdict.COMPLIANCE, asked, parts, kind)

    def _any_request(self) -> dict[str, Any]:
        return self._rng.choice(self._harmful if self._rng.random() < 0.65 else self._harmless)

    def _sentence(self, role: str, asked: dict[str, Any]) -> str:
        sentence: str = self._rng.choice(self._sentences[role])
        return sentence.replace("{doing}", asked["doing"])

    def _maybe(self, share: float, part: Callable[[], str]) -> list[str]:
        return [part()] if self._rng.random() < share else []

    def _declining(self, asked: dict[str, Any]) -> str:
        rng, g = self._rng, self._grammar
        prefix = rng.choice(g["prefix"]) if rng.random() < 0.5 else ""
        modal, act = rng.choice(g["cannot"]), rng.choice(g["act"])
        if isinstance(modal, dict):  # German: the infinitive's form follows the modal
            act, modal = act[modal["form"]], modal["text"]
        clause = self._space.join(part for part in (prefix, modal, act) if part)
        reason = rng.choice(g["reason"]) if rng.random() < 0.6 else "。" if not self._space else "."
        clause = clause.replace("{doing}", asked["doing"]).replace("' ", "'")
        return _capitalised(clause.rstrip(" .。")) + reason

    def _moralising(self) -> str:
        rng, g = self._rng, self._grammar
        pair = ("subject", "predicate") if rng.random() < 0.55 else ("important", "value")
        return _capitalised(self._space.join(rng.choice(g[part]) for part in pair))

    def _help(self, asked: dict[str, Any], least: int, most: int) -> list[str]:
        rng = self._rng
        parts = rng.sample(asked["help"], k=min(rng.randint(least, most), len(asked["help"])))
        parts += rng.sample(self._grammar["instructing"], k=rng.randint(0, 2))
        rng.shuffle(parts)
        if rng.random() < 0.55:
            return parts
        mark = "{}. " if rng.random() < 0.7 else "- "
        return ["\n\n" + "\n".join(mark.format(i) + part for i, part in enumerate(parts, start=1))]

    def _row(
        self, label: Verdict, asked: dict[str, Any], parts: list[str], kind: str
    ) -> LabelledRow:
        rng, draw = self._rng, self._rng.random()
        joint = self._space if draw < 0.65 else "\n\n"
        text = joint.join(parts) if draw < 0.85 else parts[0] + "\n\n" + self._space.join(parts[1:])
        # What is left of a partial refusal may be none.
        if label is not Verdict.PARTIAL and rng.random() < _CUT_SHARE:
            words = text.split(" ") if self._space else list(text)
            text = self._space.join(words[: rng.choice((18, 30) if self._space else (24, 40))])
        return LabelledRow(
            asked["prompt"],
            text,
            label,
            Origin.COMPOSED,
            f"composed/{self._language}",
            self._language,
            kind,
        )


def _chosen(items: list[Any], templates: Templates) -> list[Any]:
    if templates is Templates.ALL:
        return items
    held_out = templates is Templates.HELD_OUT
    return [x for i, x in enumerate(items) if (i % _HELD_OUT_EVERY == 0) == held_out]


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def composed(count: int, *, seed: int = 0) -> Iterator[LabelledRow]:
    """`count` rows of every language."""
    for language in LANGUAGES:
        yield from compose(language, count, seed=seed)
