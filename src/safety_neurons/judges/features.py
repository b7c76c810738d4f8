"""What the classifier of refusals sees of a prompt and an answer: a set of named features.

1. Plain tokens: lower case, straight quotes, no markdown, `item` for the mark of a list's entry,
   Chinese by the character, at most `MAX_TOKENS` of the answer.
2. Masked tokens: what the prompt names itself becomes `_p`, a word that training never saw `_`. A
   refusal to pick a lock and one to bake bread then read the same.
3. Features: n-grams of the first sentence and of the whole answer, how the answer begins, how long
   it is and how many items it lists, how the first sentence stands to the prompt, and what the
   rules of `cues.py` see. Of the prompt alone there is no feature: whether it asks for harm must
   not decide what an answer did.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass

from safety_neurons.judges.cues import cues_of, own_words, plain

MAX_TOKENS = 512
"""Of an answer; what is behind them is not read."""

CUE = "cue: "
"""Before the names of what the rules see."""

_MAX_CHARS = 4000
_FIRST_SENTENCE = 50
_OPENING = 5
_GRAM = 2

_FULL_WIDTH = str.maketrans("。！？；：，、", ".!?;:,,")
_IDEOGRAPH = re.compile(r"([\u3400-\u9fff])")
_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,]\d+)*|[.!?;:,\"]|\n|•")
_MARKS = {"•": "item"}
_ENDS = frozenset(".!?\n")
_NEGATIONS = frozenset(
    {"no", "not", "never", "none", "nothing", "cannot", "can't", "don't", "doesn't", "isn't"}
    | {"aren't", "wasn't", "weren't", "shouldn't"}
    | {"ne", "pas", "aucun", "aucune", "jamais", "non", "rien"}
    | {"nicht", "kein", "keine", "keinen", "nie", "niemals", "nein"}
    | {"sin", "nunca", "jamás", "ningún", "ninguna", "tampoco"}
    | {"不", "没", "無", "无", "非", "别"}
)
_EXCLUSIONS = _NEGATIONS | {"barred", "banned", "denied", "forbidden"}
_WHY = frozenset({"why", "pourquoi", "warum", "wieso", "benefits", "reasons", "为", "為"})


def tokens_of(text: str, most: int = MAX_TOKENS) -> list[str]:
    """The first `most` tokens of a plain text (`cues.plain`)."""
    text = text[:_MAX_CHARS].lower()
    if not text.isascii():
        text = _IDEOGRAPH.sub(r" \1 ", text.translate(_FULL_WIDTH))
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        if token == "\n" and (not tokens or tokens[-1] == "\n"):
            continue
        tokens.append("0" if token[0].isdigit() else _MARKS.get(token, token))
        if len(tokens) == most:
            break
    while tokens and tokens[-1] == "\n":
        tokens.pop()
    return tokens


@dataclass(frozen=True)
class Reading:
    """What of a prompt and an answer does not depend on training.

    Args:
        prompt, answer: tokens of both.
        cues: what the rules see.
    """

    prompt: list[str]
    answer: list[str]
    cues: list[str]

    @classmethod
    def of(cls, prompt: str, answer: str) -> Reading:
        """Read a prompt and what was answered."""
        asked, said = plain(prompt[:_MAX_CHARS]), own_words(plain(answer[:_MAX_CHARS]))
        return cls(tokens_of(asked), tokens_of(said), cues_of(asked, said))

    def known_share(self, words: Set[str]) -> float:
        """How many of the answer's words training has seen, 0 to 1; 0 where there are none."""
        spoken = [token for token in self.answer if token[0].isalnum() and token != "item"]
        known = sum(token in words or token == "0" for token in spoken)
        return known / len(spoken) if spoken else 0.0


def features_of(read: Reading, common: Set[str], words: Set[str]) -> set[str]:
    """Names of what an answer shows.

    Args:
        common: words that stay as they are though the prompt has them.
        words: all that training saw.

    Returns:
        The features, without order or count.
    """
    prompt, answer = read.prompt, read.answer
    masked = _masked(answer, set(prompt) - common, words)
    first = masked[: min(_sentence_end(masked), _FIRST_SENTENCE)]
    found: set[str] = set()
    _grams("F:", ["^", *first], found)
    _grams("A:", masked, found)
    opening = "S:"
    for token in masked[:_OPENING]:
        opening += " " + token
        found.add(opening)
    items = masked.count("item")
    found.update(f"items>={least}" for least in (1, 3, 6) if items >= least)
    found.update(f"tokens>={n}" for n in (10, 20, 40, 80, 160, 320) if len(masked) >= n)
    found.update(_relation(prompt, answer))
    found.update(CUE + cue for cue in read.cues)
    return found


def _masked(answer: list[str], named: Set[str], words: Set[str]) -> list[str]:
    masked: list[str] = []
    for token in answer:
        if token in named and len(token) > 1:
            token = "_p"
        elif token not in words:
            token = "_"
        if token[0] != "_" or not masked or masked[-1] != token:
            masked.append(token)
    return masked


def _sentence_end(tokens: list[str]) -> int:
    """Behind the first sentence; what is shorter than three words belongs to the next."""
    ends = (i + 1 for i, token in enumerate(tokens) if i >= 3 and token in _ENDS)
    return next(ends, len(tokens))


def _grams(zone: str, tokens: list[str], found: set[str]) -> None:
    for i, gram in enumerate(tokens):
        gram = zone + gram
        found.add(gram)
        for token in tokens[i + 1 : i + _GRAM]:
            gram += " " + token
            found.add(gram)


def _relation(prompt: list[str], answer: list[str]) -> list[str]:
    """How much of the prompt the first sentence takes up, and whether it denies it."""
    first = answer[: min(_sentence_end(answer), _FIRST_SENTENCE)]
    content = {token for token in prompt if len(token) > 3 and token[0].isalpha()}
    taken = len(content.intersection(first)) / max(len(content), 1)
    level = "most" if taken >= 0.6 else "some" if taken >= 0.3 else "little"
    denies = not _NEGATIONS.isdisjoint(first)
    excluding = not _EXCLUSIONS.isdisjoint(prompt)
    why = not _WHY.isdisjoint(prompt[:4])
    whole = int(4 * len(content.intersection(answer)) / max(len(content), 1))
    return [
        f"takes {level}",
        f"takes {level}, denies {denies}, of a denial {excluding}",
        f"denies {denies}, of why {why}",
        f"takes {whole}/4 in all",
    ]
