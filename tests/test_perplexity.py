"""Perplexities of given answers, all settings in one pass, against one plain pass each."""

from __future__ import annotations

import math

import pytest
import torch

from safety_neurons.engine import Side
from safety_neurons.inference import ALIGNED, UNALIGNED, Decoding
from safety_neurons.inference.perplexity import perplexities, surprisals
from safety_neurons.units import UnitSet
from tests.tiny import logits_of, neurons_of, overwritten_logits, patched, prompts

ANSWERS = [one[1:] for one in prompts((4, 9, 6, 3, 7), seed=4)]
ASKED = prompts((7, 2, 10, 5, 5))


def by_hand(logits_at) -> float:
    nats, tokens = 0.0, 0
    for prompt, answer in zip(ASKED, ANSWERS, strict=True):
        likelihoods = logits_at([*prompt, *answer[:-1]])[-len(answer) :].log_softmax(dim=-1)
        nats -= sum(float(row[token]) for row, token in zip(likelihoods, answer, strict=True))
        tokens += len(answer)
    return math.exp(nats / tokens)


@pytest.mark.parametrize("recipient", list(Side))
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_all_settings_equal_plain_passes(zoo, separate, recipient):
    sources = {
        Side.ALIGNED: zoo.source("llama", "ia3"),
        Side.UNALIGNED: str(zoo.copy("llama") if separate else zoo.base("llama")),
    }
    pair = zoo.pair(*sources.values())
    generator = torch.Generator().manual_seed(0)
    neurons = UnitSet.of(torch.randperm(pair.space().total, generator=generator)[:15], pair.space())
    columns: dict[int, list[int]] = {}
    for name in neurons.names:
        layer, neuron = name[1:].split(".N")
        columns.setdefault(int(layer), []).append(int(neuron))
    models = {side: zoo.model(source) for side, source in sources.items()}
    donor = models[recipient.other]
    expected = {
        "aligned": by_hand(lambda tokens: logits_of(models[Side.ALIGNED], tokens)),
        "unaligned": by_hand(lambda tokens: logits_of(models[Side.UNALIGNED], tokens)),
        "patched": by_hand(
            lambda tokens: overwritten_logits(
                models[recipient], "llama", tokens, columns, neurons_of(donor, "llama", tokens)
            )
        ),
    }
    settings = {
        "unaligned": UNALIGNED,
        "aligned": ALIGNED,
        "patched": patched(recipient, neurons),
    }
    for size in (1, 2, 32):
        found = perplexities(pair, ASKED, ANSWERS, settings, Decoding(batch_size=size))
        assert found == pytest.approx(expected, rel=1e-9)
    assert len(set(expected.values())) == 3


def test_surprisals_are_of_each_prompt_in_turn(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    model = zoo.model(zoo.source("llama", "ia3"))
    asked, answers = ASKED * 2, ANSWERS * 2
    found = surprisals(pair, asked, answers, {"aligned": ALIGNED}, Decoding(batch_size=3))
    assert found.tokens == [len(answer) for answer in answers]
    for i, (prompt, answer) in enumerate(zip(ASKED, ANSWERS, strict=True)):
        rows = logits_of(model, [*prompt, *answer[:-1]])[-len(answer) :].log_softmax(dim=-1)
        nats = -sum(float(row[token]) for row, token in zip(rows, answer, strict=True))
        assert found.nats["aligned"][i] == pytest.approx(nats, rel=1e-9)
    bounds = found.interval("aligned")
    assert bounds is not None
    assert bounds.low < found.perplexity("aligned") < bounds.high
    few = surprisals(pair, ASKED, ANSWERS, {"aligned": ALIGNED}, Decoding())
    assert few.interval("aligned") is None  # five prompts tell no interval


def test_patches_of_both_sides_do_not_go_together(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    everything = UnitSet.all(pair.space())
    settings = {side: patched(side, everything) for side in Side}
    with pytest.raises(ValueError, match="calls of their own"):
        perplexities(pair, ASKED, ANSWERS, settings, Decoding())
