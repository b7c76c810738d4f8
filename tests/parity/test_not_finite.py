"""A model that overflows is said in a sentence, before anything is made of its numbers."""

from __future__ import annotations

import math

import pytest
import torch

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import ALIGNED, UNALIGNED, Decoding
from safety_neurons.inference.perplexity import perplexities
from safety_neurons.models import ModelPair
from tests.parity.test_patching import some_neurons
from tests.tiny import decode_patched, patched, prompts

A, U = Side.ALIGNED, Side.UNALIGNED
COMPLETIONS = [[20, 21, 22], [30], [40, 41]]


def broken(zoo, side: Side, value: float) -> ModelPair:
    """One side's last logit weights are `value`; the models are two."""
    pair = ModelPair.load(
        str(zoo.base("llama", seed=1)), str(zoo.base("llama")), dtype=torch.float64, device="cpu"
    )
    with torch.no_grad():
        pair.sides[side].model.lm_head.weight[-1] = value
    return pair


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", list(Side))
def test_no_token_is_chosen_from_logits_that_are_not_finite(zoo, side, value):
    pair = broken(zoo, side, value)
    with pytest.raises(UserError, match=rf"The {side} model's logits are not finite .* --dtype"):
        decode_patched(pair, prompts(), side, max_new_tokens=2)
    with pytest.raises(UserError, match=rf"The {side} model's logits"):
        decode_patched(pair, prompts(), side, [some_neurons(pair)], max_new_tokens=2)
    decode_patched(pair, prompts(), side.other, max_new_tokens=2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", list(Side))
def test_a_likelihood_that_is_not_finite_is_said_in_the_first_batch(zoo, side, value):
    pair, read = broken(zoo, side, value), []
    settings = {"u": UNALIGNED, "a": ALIGNED, "p": patched(U, some_neurons(pair))}
    ours = {A: "a", U: "u"}[side]

    class Counted:
        def track(self, items, label, **_):
            for item in items:
                read.append(item)
                yield item

    with pytest.raises(UserError, match=f"setting '{ours}' the likelihood .* --dtype"):
        perplexities(
            pair, prompts(), COMPLETIONS, settings, Decoding(batch_size=1), progress=Counted()
        )
    assert len(read) == 1


def test_a_perplexity_beyond_all_numbers_is_said(zoo):
    pair = broken(zoo, A, 0.0)
    with torch.no_grad():
        pair.sides[A].model.lm_head.weight *= 1e4
    with pytest.raises(UserError, match=r"setting 'a' a token .* costs \d+ nats on average"):
        perplexities(pair, prompts(), COMPLETIONS, {"a": ALIGNED}, Decoding())
