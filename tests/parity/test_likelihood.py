"""Likelihoods of several completions of a prompt, and their gradients, are the plain model's."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, get_peft_model

from safety_neurons.engine import PairedRows, Side
from safety_neurons.inference.likelihood import (
    log_likelihoods,
    opening_likelihoods,
    opening_margins,
)
from safety_neurons.models import ModelPair
from tests.tiny import ARCHITECTURES, PARTS, prompts

EXACT = {"rtol": 0, "atol": 1e-9}


def adapted(zoo, architecture: str) -> tuple[ModelPair, torch.nn.Module]:
    """A pair whose model has got an (IA)³ adapter with scales that are not 1."""
    source = str(zoo.copy(architecture))
    pair = ModelPair.load(source, source, dtype=torch.float64, device="cpu")
    down = PARTS[architecture]["down"].rpartition(".")[2]
    config = IA3Config(task_type="CAUSAL_LM", target_modules=[down], feedforward_modules=[down])
    model = get_peft_model(pair.sides["unaligned"].model, config)
    generator = torch.Generator().manual_seed(5)
    for scale in trained(model):
        scale.data = 1 + 0.3 * torch.randn(scale.shape, generator=generator, dtype=scale.dtype)
    return pair, model


def trained(model) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def plain_log_likelihood(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([prompt + completion])).logits[0].log_softmax(dim=-1)
    return sum(logits[len(prompt) + i - 1, token] for i, token in enumerate(completion))


def asked_behind(beginning: int) -> list[list[int]]:
    """Three prompts of other lengths with so many tokens in common."""
    shared, *own = prompts((beginning + 1, 2, 7, 4), seed=1)
    return [shared[:beginning] + one[1:] for one in own]


def plain_log_likelihoods(model, asked, completions) -> torch.Tensor:
    return torch.stack(
        [
            torch.stack([plain_log_likelihood(model, prompt, list(c)) for c in group])
            for prompt, group in zip(asked, completions, strict=True)
        ]
    )


def require_same(model, found, expected, weights) -> None:
    """Values, and gradients of their weighted sum."""
    torch.testing.assert_close(found, expected, **EXACT)
    gradients = [
        torch.autograd.grad((values * weights).sum(), trained(model))
        for values in (found, expected)
    ]
    for ours, plain in zip(*gradients, strict=True):
        assert plain.abs().max() > 1e-3
        # RMSNorm rounds to float32 whatever the model's precision.
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.fixture
def read(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the tokens that passes read."""
    shapes: list[tuple[int, ...]] = []
    forward = PairedRows.forward

    def watched(self, tokens, **options):
        shapes.extend(tuple(t.ids.shape) for t in tokens.values())
        return forward(self, tokens, **options)

    monkeypatch.setattr(PairedRows, "forward", watched)
    return shapes


@pytest.mark.parametrize("beginning", [0, 1, 5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_likelihoods_and_gradients_equal_those_of_plain_passes(zoo, architecture, beginning):
    pair, model = adapted(zoo, architecture)
    asked = asked_behind(beginning)
    answers = [one[1:] for one in prompts((2, 6, 4, 9, 3, 3), seed=2)]
    completions = list(zip(answers[::2], answers[1::2], strict=True))
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]], dtype=torch.float64)
    found, counts = log_likelihoods(pair, Side.UNALIGNED, asked, completions)
    require_same(model, found, plain_log_likelihoods(model, asked, completions), weights)
    assert counts.tolist() == [[len(c) for c in group] for group in completions]


def test_a_prompt_is_read_once_for_its_completions(zoo, read):
    pair, _ = adapted(zoo, "llama")
    beginning, *own = prompts((5, 3, 4), seed=1)
    asked = [beginning + one for one in own]
    log_likelihoods(pair, Side.UNALIGNED, asked, [([7, 8], [9])] * 2)
    assert read == [(1, 6), (2, 2), (4, 2)]  # BOS is common, too; the last prompt token is kept


OPENINGS = ((7,), (9, 8), (9, 8, 7), (9, 5), (4, 4, 4, 4), (9,))


@pytest.mark.parametrize("openings", [OPENINGS, OPENINGS[:1], OPENINGS[2:4]])
@pytest.mark.parametrize("beginning", [0, 5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_openings_and_their_gradients_equal_those_of_plain_passes(
    zoo, architecture, beginning, openings
):
    pair, model = adapted(zoo, architecture)
    asked = asked_behind(beginning)
    expected = plain_log_likelihoods(model, asked, [openings] * len(asked))
    weights = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).view_as(expected)
    found = opening_likelihoods(pair, Side.UNALIGNED, asked, openings)
    require_same(model, found, expected, weights)


def test_what_openings_begin_with_is_read_once(zoo, read):
    pair, _ = adapted(zoo, "llama")
    opening_likelihoods(pair, Side.UNALIGNED, [[1, 2, 3], [1, 5, 6]], [(9, 8, 7), (9, 5), (4,)])
    assert read[-1] == (2, 3)  # one row a prompt: the prompt's last token, 9 and 8


@torch.no_grad()
@pytest.mark.parametrize("beginning", [0, 3])
def test_margins_say_what_a_greedy_answer_begins_with(zoo, beginning):
    pair, model = adapted(zoo, "llama")
    asked = asked_behind(beginning)
    greedy = []
    for prompt in asked:
        tokens = list(prompt)
        for _ in range(3):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        greedy.append(tuple(tokens[len(prompt) :]))
    first, second = greedy[0], greedy[1]
    astray = [tuple((token + 1) % 90 for token in of) for of in (first, second)]
    for openings in (
        [first],
        [first, (first[0], astray[0][1], 5)],  # part behind the first token
        [(first[0], astray[0][1], 5)],
        [first[:1], second[:1]] if first[0] != second[0] else [first[:1]],
        # The way that is followed leads astray, though the other one is better than all else.
        [(first[0], astray[0][1]), astray[0][:1]],
        [second[:2], astray[1]],
    ):
        found = opening_margins(pair, Side.UNALIGNED, asked, openings)
        begins = [any(answer[: len(of)] == of for of in openings) for answer in greedy]
        assert [bool(margin > 0) for margin in found] == begins
        expected = [by_hand(model, prompt, openings) for prompt in asked]
        torch.testing.assert_close(found, torch.stack(expected), **EXACT)


def by_hand(model, prompt: list[int], openings: list[tuple[int, ...]]) -> torch.Tensor:
    """Token by token, one prompt at a time."""
    tokens, margins = (), []
    while tokens not in openings:
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1]
        ways = {of[len(tokens)] for of in openings if of[: len(tokens)] == tokens}
        followed = max(ways, key=lambda token: float(logits[token]))
        others = [token for token in range(len(logits)) if token not in ways]
        margins.append(logits[followed] - logits[others].max())
        tokens = (*tokens, followed)
    return min(margins)
