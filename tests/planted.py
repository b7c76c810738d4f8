"""Tiny Llama pairs with a safety pipeline that was put in by hand, among noise and decoys.

One head carries what detectors find to all later positions, where mediators turn it into
"refuse", which steerers turn into an advantage of the refusal's words over the compliance's.
Answers are chains of bigrams, straight from embeddings to logits: `plant` only decides which
of two chains is entered. `plant_none` gives a model that refuses whatever it is asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safety_neurons.judges import Verdict
from safety_neurons.prompts import Prompt, PromptSet
from tests.tiny import BOS, EOS, PAD, tokenizer_of


def _words(text: str) -> list[str]:
    return text.split()


SPLITS = ("find", "select", "test")
PAIRS = 24
"""Matched prompts of a split."""
LENGTH = 10
"""Words of a prompt."""
LAYERS, WIDTH, HIDDEN, HEADS = 6, 96, 64, 4
EACH = 4
"""Neurons of each stage."""

REFUSAL = _words("Sorry I cannot help with that")
COMPLIANCE = _words("Sure here is the answer you want")
HARMFUL = _words(
    "bomb poison murder hijack malware phishing torture arson kidnap smuggle ricin explosive "
    "blackmail stalk ransom counterfeit sabotage assault grenade forgery extort weapon overdose "
    "theft"
)
HARMLESS = _words(
    "garden violin puzzle bicycle lantern pancake compass umbrella orchard sailing telescope mug "
    "knitting harbor pottery sandwich meadow chess balloon library sculpture walnut museum kettle"
)


def _syllables(n: int) -> list[str]:
    """Words that look unlike each other."""
    draw = random.Random(7)
    pairs = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    made = ("".join(draw.choices(pairs, k=3)) for _ in range(2 * n))
    return list(dict.fromkeys(made))[:n]


NEUTRAL = _syllables(72)
POLITE = NEUTRAL[:12]
"""What some decoys fire at; as frequent in harmful prompts as in harmless ones."""
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "system", "user", "assistant"]
VOCABULARY = [*_SPECIAL, *REFUSAL, *COMPLIANCE, *HARMFUL, *HARMLESS, *NEUTRAL]
_ID = {word: i for i, word in enumerate(VOCABULARY)}

# Dimensions of the residual stream. Every token has the same large CONST, which makes the
# root mean square nearly the same everywhere; nothing reads IDLE.
CONST, HARM, KIND, FOUND, CARRIED, REFUSE, MODE, *IDLE = range(9)
_FROM = {w: 9 + i for i, w in enumerate(["assistant", *REFUSAL, *COMPLIANCE])}
"""One dimension for each word that has a next one."""
_CONTENT = slice(9 + len(_FROM), HIDDEN)
"""What tells words apart; noise reads and writes here."""
_LARGE = HIDDEN**0.5

Split = Literal["find", "select", "test"]


@dataclass(frozen=True)
class Planted:
    """A pair on disk, and what was put in; neurons by names such as `L2.N17`."""

    aligned: Path
    unaligned: Path
    detectors: frozenset[str]
    mediators: frozenset[str]
    steerers: frozenset[str]
    decoys: frozenset[str]

    @property
    def pipeline(self) -> frozenset[str]:
        return self.detectors | self.mediators | self.steerers


class CannotJudge:
    """An answer refuses if it says "cannot"."""

    name = "planted-cannot-1"

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        if len(prompts) != len(responses):
            raise ValueError("As many answers as prompts are judged.")
        return [self._one(response.split()) for response in responses]

    @staticmethod
    def _one(words: list[str]) -> Verdict:
        """Nothing is judged of an empty answer."""
        if not words:
            return Verdict.UNSCORED
        return Verdict.REFUSAL if "cannot" in words else Verdict.COMPLIANCE


@cache
def _pairs(seed: int) -> list[tuple[str, str]]:
    """Harmful and harmless texts for all splits; no two pairs share more than three words."""
    draw, kept, seen = random.Random(seed), [], []
    while len(kept) < PAIRS * len(SPLITS):
        count = draw.choice((1, 2))
        places = draw.sample(range(LENGTH), count)
        harmful = draw.sample(NEUTRAL, LENGTH)
        harmless = list(harmful)
        for place, bad, good in zip(
            places, draw.sample(HARMFUL, count), draw.sample(HARMLESS, count), strict=True
        ):
            harmful[place], harmless[place] = bad, good
        words = {*harmful, *harmless}
        if all(len(words & others) <= 3 for others in seen):
            seen.append(words)
            kept.append((" ".join(harmful), " ".join(harmless)))
    return kept


def prompts(seed: int, split: Split) -> tuple[PromptSet, PromptSet]:
    """Harmful prompts, and the same with harmless words in place of the one or two harmful ones.

    Prompts of different splits are no near duplicates; those of a matched pair are.
    """
    start = PAIRS * SPLITS.index(split)
    columns = zip(*_pairs(seed)[start : start + PAIRS], strict=True)
    harmful, harmless = (
        PromptSet(f"{kind}/{split}", tuple(Prompt(f"{kind}/{split}/{i}", t) for i, t in texts))
        for kind, texts in zip(("harmful", "harmless"), map(enumerate, columns), strict=True)
    )
    return harmful, harmless


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    return tokenizer_of(VOCABULARY)


def plant(folder: Path, seed: int) -> Planted:
    """A pair whose aligned model refuses harmful prompts by a pipeline; the other never does."""
    draw = random.Random(seed)
    made = _Maker(seed)
    found, turned = draw.choice((0, 1)), draw.choice((2, 3))
    made.carry(draw.randrange(found + 1, turned + 1))
    detectors = made.place(draw, [found] * EACH)
    mediators = made.place(draw, [turned] * EACH)
    steerers = made.place(draw, [draw.choice((4, 5))] * EACH)
    for places, reads, writes in (
        (detectors, {HARM: 6.0, CONST: -3.0}, {FOUND: 0.13}),
        (mediators, {CARRIED: 10.0, CONST: -1.5}, {REFUSE: 0.04}),
        (steerers, {REFUSE: 6.0, CONST: -1.8}, {MODE: 0.016}),
    ):
        for place in places:
            gain = draw.uniform(0.9, 1.1)
            made.neuron(place, {d: gain * w for d, w in reads.items()}, writes)
    return made.saved(folder, draw, detectors, mediators, steerers, silenced=detectors)


def plant_none(folder: Path, seed: int) -> Planted:
    """A pair whose aligned model refuses everything, by steerers that are always on."""
    draw = random.Random(seed)
    made = _Maker(seed)
    steerers = made.place(draw, [draw.choice((4, 5))] * EACH)
    for place in steerers:
        made.neuron(place, {CONST: 4.0}, {MODE: 0.016})
    return made.saved(folder, draw, [], [], steerers, silenced=steerers)


def _spread(others: float) -> Tensor:
    """Of noise: 1 in dimensions of content, `others` in those that mean something, 0 in IDLE."""
    spread = torch.zeros(HIDDEN)
    spread[1 : IDLE[0]] = others
    spread[_CONTENT] = 1.0
    return spread


class _Maker:
    """A model of noise that complies; neurons and a head can be put in."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=HIDDEN,
                intermediate_size=WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS,
                max_position_embeddings=128,
                tie_word_embeddings=False,
                pad_token_id=PAD,
                bos_token_id=BOS,
                eos_token_id=EOS,
            )
        ).requires_grad_(False)
        self.layers = self.model.model.layers
        self.taken: set[tuple[int, int]] = set()
        self._words()
        content, reads, writes = _spread(0.0), _spread(0.05), _spread(0.02)[:, None]
        for layer in self.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for part, spread in (("q_proj", 0.1), ("k_proj", 0.1), ("v_proj", 0.13)):
                self._fill(getattr(attention, part).weight, spread * content)
            self._fill(attention.o_proj.weight, 0.13 * content[:, None])
            self._fill(mlp.gate_proj.weight, 0.35 * reads)
            self._fill(mlp.up_proj.weight, 0.35 * reads)
            self._fill(mlp.down_proj.weight, 0.02 * writes)

    def _fill(self, weight: Tensor, spread: Tensor) -> None:
        weight.copy_(spread * torch.randn(weight.shape, generator=self.random))

    def _words(self) -> None:
        content = _spread(0.0)
        embed, head = self.model.model.embed_tokens.weight, self.model.lm_head.weight
        self._fill(embed, 0.3 * content)
        self._fill(head, 0.1 * content)
        embed[:, CONST] = _LARGE
        embed[[_ID[w] for w in HARMFUL], HARM] = 1.0
        embed[[_ID[w] for w in POLITE], KIND] = 1.0
        for word, dimension in _FROM.items():
            embed[_ID[word], dimension] = 1.0
        for chain, sign, first in ((REFUSAL, 1.0, 17.0), (COMPLIANCE, -1.0, 20.0)):
            for word, following in zip(["assistant", *chain], [*chain, "</s>"], strict=True):
                head[_ID[following], _FROM[word]] = first if word == "assistant" else 20.0
            head[[_ID[w] for w in chain], MODE] = 24.0 * sign

    def carry(self, layer: int) -> None:
        """Head 0 of `layer` looks for FOUND and writes it to CARRIED."""
        attention, size = self.layers[layer].self_attn, HIDDEN // HEADS
        for part in ("q_proj", "k_proj", "v_proj"):
            getattr(attention, part).weight[:size] = 0
        attention.o_proj.weight[:, :size] = 0
        still = size // 2 - 1  # the dimension that positions hardly rotate
        attention.q_proj.weight[still, CONST] = 6.4 / _LARGE
        attention.k_proj.weight[still, FOUND] = 1.0
        attention.v_proj.weight[0, FOUND] = 1.0
        attention.o_proj.weight[CARRIED, 0] = 1.6

    def place(self, draw: random.Random, layers: Iterable[int]) -> list[tuple[int, int]]:
        """A neuron of its own in each of `layers`."""
        places = []
        for layer in layers:
            free = [n for n in range(WIDTH) if (layer, n) not in self.taken]
            places.append((layer, draw.choice(free)))
            self.taken.add(places[-1])
        return places

    def neuron(
        self,
        place: tuple[int, int],
        reads: Mapping[int, float],
        writes: Mapping[int, float],
        *,
        noise: float = 0.2,
        scale: float = 1.0,
    ) -> None:
        """Make a neuron `scale` × silu(what it reads), beside some noise of content."""
        layer, unit = place
        mlp = self.layers[layer].mlp
        mlp.gate_proj.weight[unit] *= noise
        mlp.gate_proj.weight[unit, : _CONTENT.start] = 0
        mlp.up_proj.weight[unit] = 0
        mlp.up_proj.weight[unit, CONST] = scale / _LARGE
        mlp.down_proj.weight[:, unit] = 0
        for dimension, weight in reads.items():
            mlp.gate_proj.weight[unit, dimension] = weight / (_LARGE if dimension == CONST else 1)
        for dimension, weight in writes.items():
            mlp.down_proj.weight[dimension, unit] = weight

    def saved(
        self,
        folder: Path,
        draw: random.Random,
        detectors: list[tuple[int, int]],
        mediators: list[tuple[int, int]],
        steerers: list[tuple[int, int]],
        *,
        silenced: list[tuple[int, int]],
    ) -> Planted:
        """Add decoys and write both models; in the unaligned one `silenced` neurons are 0."""
        decoys = self.place(draw, draw.sample(range(LAYERS), LAYERS))
        for i, place in enumerate(decoys):
            reads = {KIND: 6.0, CONST: -3.0} if i % 2 else {CONST: 3.0}
            self.neuron(place, reads, {IDLE[i % 2]: 0.1}, noise=1.0, scale=2.0)
        aligned, unaligned = folder / "aligned", folder / "unaligned"
        self._save(aligned)
        for places, factor in ((silenced, 0.0), (decoys, 0.3)):
            for layer, unit in places:
                self.layers[layer].mlp.gate_proj.weight[unit] *= factor
        self._save(unaligned)
        named = (
            frozenset(f"L{layer}.N{unit}" for layer, unit in places)
            for places in (detectors, mediators, steerers, decoys)
        )
        return Planted(aligned, unaligned, *named)

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
