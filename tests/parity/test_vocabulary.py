"""Models whose embeddings have different numbers of rows, padded for speed, on one tokenizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from safety_neurons.engine import Side
from safety_neurons.inference import Decoding, Setting
from safety_neurons.inference.perplexity import perplexities
from safety_neurons.methods import attribute, contrast
from safety_neurons.models import ModelPair
from safety_neurons.units import UnitSet
from tests.parity.test_contrast import (
    COMPLETIONS,
    assert_same_sums,
    attribution_by_hand,
    batch_of,
    contrast_by_hand,
)
from tests.parity.test_gating import assert_rows_are_plain_models, side_logits
from tests.parity.test_patching import columns_of, some_neurons
from tests.tiny import (
    EOS,
    GATED,
    VOCABULARY,
    decode_patched,
    logits_of,
    neurons_of,
    overwritten_logits,
    prompts,
    random_model,
    save,
)

A, U = Side.ALIGNED, Side.UNALIGNED
WIDE, STEPS = 96, 6
# Gemma 3 with images keeps its vocabulary's size in a configuration inside its own.
each_architecture = pytest.mark.parametrize(
    "architecture", [*(one for one in GATED if one != "gemma3"), "gpt2", "gpt_neox"]
)
each_wide = pytest.mark.parametrize("wide", [A, U])


def padded(zoo, architecture: str) -> Path:
    """A model with more rows, which would rather write tokens that no tokenizer has."""

    def make(folder: Path) -> None:
        model = random_model(architecture, seed=1, vocab_size=WIDE)
        model.get_output_embeddings().weight[VOCABULARY:] *= 10
        save(model, folder)

    return zoo._once(f"{architecture}-padded", make)


def sources_of(zoo, architecture: str, wide: Side) -> dict[Side, str]:
    return {wide: str(padded(zoo, architecture)), wide.other: str(zoo.base(architecture))}


def pair_of(zoo, architecture: str, wide: Side) -> tuple[ModelPair, dict]:
    sources = sources_of(zoo, architecture, wide)
    pair = zoo.pair(sources[A], sources[U])
    assert pair.vocabulary == VOCABULARY
    return pair, {side: zoo.model(source) for side, source in sources.items()}


@each_wide
@each_architecture
def test_each_side_keeps_its_own_width(zoo, architecture, wide):
    pair, _ = pair_of(zoo, architecture, wide)
    found = side_logits(pair, dict.fromkeys(Side, prompts()))
    assert {len(row[-1]) for row in found[wide]} == {WIDE}
    assert {len(row[-1]) for row in found[wide.other]} == {VOCABULARY}
    assert_rows_are_plain_models(zoo, pair, sources_of(zoo, architecture, wide))


@torch.no_grad()
def written(plain: dict, architecture: str, prompt, recipient: Side, columns) -> list[int]:
    """Greedy patched generation among the tokens of both models, without cache or batch."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < STEPS and (len(tokens) == len(prompt) or tokens[-1] != EOS):
        values = neurons_of(plain[recipient.other], architecture, tokens)
        logits = overwritten_logits(plain[recipient], architecture, tokens, columns, values)
        tokens.append(int(logits[-1, :VOCABULARY].argmax()))
    return tokens[len(prompt) :]


@each_wide
@pytest.mark.parametrize("recipient", [A, U])
@each_architecture
def test_only_tokens_of_both_models_are_written(zoo, architecture, wide, recipient):
    pair, plain = pair_of(zoo, architecture, wide)
    assert logits_of(plain[wide], prompts()[0])[-1].argmax() >= VOCABULARY
    neurons, nothing = some_neurons(pair), UnitSet.of(torch.empty(0), pair.space())
    expected = [
        [written(plain, architecture, p, recipient, columns_of(patch)) for p in prompts()]
        for patch in (neurons, nothing)
    ]
    assert (
        decode_patched(pair, prompts(), recipient, [neurons, nothing], max_new_tokens=STEPS)
        == expected
    )
    assert decode_patched(pair, prompts(), recipient, max_new_tokens=STEPS) == expected[1:]


@each_wide
@each_architecture
def test_scores_equal_plain_models(zoo, architecture, wide):
    pair, plain = pair_of(zoo, architecture, wide)
    assert_same_sums(batch_of(pair, contrast), contrast_by_hand(plain, architecture))
    found, expected = batch_of(pair, attribute), attribution_by_hand(plain, architecture)
    torch.testing.assert_close(found.attribution, expected, rtol=1e-8, atol=1e-9)


@each_wide
def test_perplexities_equal_plain_models(zoo, wide):
    """Each model's own: a token costs what it costs among all tokens that the model knows."""
    pair, plain = pair_of(zoo, "llama", wide)
    expected = {}
    for side in Side:
        nats = 0.0
        for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
            likelihood = logits_of(plain[side], [*prompt, *completion[:-1]]).log_softmax(dim=-1)
            own = likelihood[-len(completion) :]
            nats -= float(own[torch.arange(len(completion)), torch.tensor(completion)].sum())
        expected[side] = float(torch.tensor(nats / sum(map(len, COMPLETIONS))).exp())
    settings = {side: Setting(side) for side in Side}
    found = perplexities(pair, prompts(), COMPLETIONS, settings, Decoding())
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("own", [None, WIDE, 10_000])
def test_a_padding_token_that_a_model_lacks_is_not_read(zoo, own):
    pair, _ = pair_of(zoo, "llama", A)
    odd = dataclasses.replace(pair, tokenizer=SimpleNamespace(pad_token_id=own, eos_token_id=EOS))
    assert odd.pad_id == EOS
    neurons = [some_neurons(pair)]
    found = [
        decode_patched(one, prompts(), U, neurons, max_new_tokens=STEPS) for one in (pair, odd)
    ]
    assert found[0] == found[1]
    assert_same_sums(batch_of(odd, contrast), batch_of(pair, contrast))
