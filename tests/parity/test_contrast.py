"""Contrast sums and attribution, against one prompt at a time and plain torch."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from safety_neurons.engine import PairedRows, Side
from safety_neurons.inference import ForcedBatch
from safety_neurons.methods import ContrastSums, attribute, contrast
from safety_neurons.methods.attribution import AttributionSums
from safety_neurons.models import ModelPair
from safety_neurons.units import BlockKey, UnitSet
from tests.tiny import (
    ARCHITECTURES,
    EOS,
    LAYERS,
    down_projections,
    logits_of,
    neurons_of,
    patch_edit,
    pre_hooks,
    prompts,
)

A, U = Side.ALIGNED, Side.UNALIGNED
KINDS = [("ia3", None), ("ia3-kv", "lora")]
COMPLETIONS = [[20, 21, 22, 23, EOS], [30], [40, 41, EOS]]
"""Ragged, one of a single token: its only position is the last of its prompt."""


def both(zoo, architecture, kinds) -> tuple[ModelPair, dict]:
    sources = {s: zoo.source(architecture, k) for s, k in zip(Side, kinds, strict=True)}
    return zoo.pair(*sources.values()), {s: zoo.model(source) for s, source in sources.items()}


def batch_of(pair, function, rows=slice(None)):
    return function(pair, prompts()[rows], COMPLETIONS[rows])


# Contrast.


def contrast_by_hand(plain: dict, architecture: str) -> ContrastSums:
    taken: dict[Side, list[torch.Tensor]] = {A: [], U: []}
    for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
        for side, model in plain.items():
            layers = neurons_of(model, architecture, [*prompt, *completion[:-1]])
            flat = torch.cat(layers, dim=-1)  # `pos neuron`, all layers beside each other
            taken[side].append(flat[len(prompt) - 1 :])
    aligned, unaligned = torch.cat(taken[A]), torch.cat(taken[U])
    return ContrastSums(
        len(aligned),
        ((aligned - unaligned) ** 2).sum(0),
        aligned.sum(0),
        unaligned.sum(0),
    )


def assert_same_sums(found: ContrastSums, expected: ContrastSums) -> None:
    assert found.positions == expected.positions
    for name in ("squared_difference", "aligned", "unaligned"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: f"{kinds[0]}-{kinds[1]}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contrast_of_a_ragged_batch_equals_plain_models(zoo, architecture, kinds):
    pair, plain = both(zoo, architecture, kinds)
    found, expected = batch_of(pair, contrast), contrast_by_hand(plain, architecture)
    assert expected.squared_difference.min() > 0
    assert_same_sums(found, expected)
    assert found.positions == sum(len(completion) for completion in COMPLETIONS)
    change = (expected.squared_difference / expected.positions).sqrt()
    torch.testing.assert_close(found.change_score, change, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.mean_aligned, expected.aligned / 9, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.mean_unaligned, expected.unaligned / 9, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contrast_of_separate_weights_equals_shared(zoo, architecture):
    shared = zoo.pair(zoo.source(architecture, "ia3-kv"), zoo.source(architecture, None))
    separate = zoo.pair(zoo.source(architecture, "ia3-kv"), str(zoo.copy(architecture)))
    assert not separate.shared
    assert_same_sums(batch_of(separate, contrast), batch_of(shared, contrast))


def test_contrast_sums_merge_in_any_order(zoo):
    pair, _ = both(zoo, "llama", KINDS[1])
    parts = [batch_of(pair, contrast, slice(i, i + 1)) for i in range(3)]
    whole = batch_of(pair, contrast)
    for order in itertools.permutations(parts):
        assert_same_sums(sum(order, ContrastSums.zero(pair.space())), whole)
    assert_same_sums(parts[2] + (parts[0] + parts[1]), whole)


def test_a_pair_of_the_same_model_has_no_change(zoo):
    pair = zoo.pair(zoo.source("llama", None), zoo.source("llama", None))
    assert batch_of(pair, contrast).squared_difference.max() == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_change_is_seen_where_the_models_differ_and_not_before(zoo, architecture):
    """A scale in the last layer alone changes no neuron of an earlier layer."""
    pair = last_layer_only(zoo, architecture, "ia3")
    change = batch_of(pair, contrast).change_score
    last = pair.space().slice_of(BlockKey(LAYERS - 1))
    assert change[: last.start].max() < 1e-12
    assert change[last].min() > 0


# Attribution.


def mean_log_likelihood(logits: torch.Tensor, prompt, completion) -> torch.Tensor:
    """Of the completion's tokens, from the logits of prompt + completion less its last token."""
    predicted = torch.log_softmax(logits[len(prompt) - 1 :], dim=-1)
    return sum(predicted[i, token] for i, token in enumerate(completion)) / len(completion)


def attribution_by_hand(plain: dict, architecture: str) -> torch.Tensor:
    """Gradients by autograd with respect to an added zero, one prompt and model at a time."""
    total = 0
    for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
        tokens = [*prompt, *completion[:-1]]
        values = {side: neurons_of(model, architecture, tokens) for side, model in plain.items()}
        gradient = [torch.zeros_like(x) for x in values[A]]
        for model in plain.values():
            added = [torch.zeros_like(x, requires_grad=True) for x in values[A]]
            sites = down_projections(model, architecture)
            with pre_hooks(sites, lambda layer, x, added=added: x + added[layer]):
                mean_log_likelihood(logits_of(model, tokens), prompt, completion).backward()
            gradient = [g + zero.grad / 2 for g, zero in zip(gradient, added, strict=True)]
        total = total + torch.cat(
            [((a - u) * g).sum(0) for a, u, g in zip(values[A], values[U], gradient, strict=True)]
        )
    return total


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: f"{kinds[0]}-{kinds[1]}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attribution_of_a_ragged_batch_equals_plain_autograd(zoo, architecture, kinds):
    pair, plain = both(zoo, architecture, kinds)
    found = batch_of(pair, attribute)
    assert found.prompts == len(COMPLETIONS)
    expected = attribution_by_hand(plain, architecture)
    assert (expected < 0).any()
    assert (expected > 0).any()
    torch.testing.assert_close(found.attribution, expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.score, expected / len(COMPLETIONS), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_attribution_of_separate_weights_equals_shared(zoo, architecture):
    shared = zoo.pair(zoo.source(architecture, "ia3-kv"), zoo.source(architecture, None))
    separate = zoo.pair(zoo.source(architecture, "ia3-kv"), str(zoo.copy(architecture)))
    torch.testing.assert_close(
        batch_of(separate, attribute).attribution,
        batch_of(shared, attribute).attribution,
        rtol=1e-8,
        atol=1e-9,
    )


def test_attribution_sums_merge(zoo):
    pair, _ = both(zoo, "llama", KINDS[1])
    parts = [batch_of(pair, attribute, slice(i, i + 1)) for i in range(3)]
    merged = sum(reversed(parts), AttributionSums.zero(pair.space()))
    whole = batch_of(pair, attribute)
    assert merged.prompts == whole.prompts
    torch.testing.assert_close(merged.attribution, whole.attribution, rtol=1e-8, atol=1e-9)


def test_attribution_leaves_no_gradient_behind(zoo):
    pair, _ = both(zoo, "llama", KINDS[1])
    batch_of(pair, attribute)
    model = pair.sides[A].model
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@torch.no_grad()
def patched_likelihood(pair: ModelPair, neurons: UnitSet) -> torch.Tensor:
    """Sum over prompts of the aligned answer's mean log-likelihood in the patched model."""
    batch = ForcedBatch.of(prompts(), COMPLETIONS, pair)
    edits = [patch_edit(neurons, A)]
    with PairedRows(pair, dict.fromkeys(Side, len(batch)), edits=edits, first=A) as rows:
        logits = rows.forward(dict.fromkeys(Side, batch.tokens), logits=0)[U]
    return sum(
        mean_log_likelihood(
            row[max(map(len, prompts())) - len(prompt) :][: len(prompt) + len(completion) - 1],
            prompt,
            completion,
        )
        for row, prompt, completion in zip(logits, prompts(), COMPLETIONS, strict=True)
    )


def predicted_and_measured(pair: ModelPair, neurons: UnitSet) -> tuple[float, float]:
    attribution = batch_of(pair, attribute).attribution[neurons.flat].sum()
    unpatched = patched_likelihood(pair, UnitSet.of(torch.empty(0), pair.space()))
    return float(attribution), float(patched_likelihood(pair, neurons) - unpatched)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attribution_predicts_what_patching_a_layer_does(zoo, architecture, layer):
    """Its first order: exact in the limit, so within a per cent for a scale within 1e-3 of 1."""
    pair, _ = both(zoo, architecture, ("ia3-near-one", None))
    span = pair.space().slice_of(BlockKey(layer))
    predicted, measured = predicted_and_measured(
        pair, UnitSet.of(torch.arange(span.start, span.stop), pair.space())
    )
    assert abs(measured) > 1e-6
    assert predicted / measured == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_attribution_predicts_what_patching_one_neuron_does(zoo, architecture):
    pair, _ = both(zoo, architecture, ("ia3-near-one", None))
    order = batch_of(pair, attribute).attribution.abs().argsort(descending=True)
    for neuron in order[:5]:
        predicted, measured = predicted_and_measured(pair, UnitSet.of(neuron[None], pair.space()))
        assert predicted / measured == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attribution_of_all_neurons_predicts_patching_them_all(zoo, architecture):
    """Where only one layer differs: gradients of several layers count what flows through both."""
    pair = last_layer_only(zoo, architecture, "ia3-near-one")
    predicted, measured = predicted_and_measured(pair, UnitSet.all(pair.space()))
    own = patched_likelihood(exchanged(pair), UnitSet.of(torch.empty(0), pair.space()))
    unpatched = patched_likelihood(pair, UnitSet.of(torch.empty(0), pair.space()))
    assert measured == pytest.approx(float(own - unpatched), abs=1e-12)  # totality
    assert abs(measured) > 1e-6
    assert predicted / measured == pytest.approx(1, abs=0.03)


def last_layer_only(zoo, architecture: str, kind: str) -> ModelPair:
    """A fresh pair whose (IA)³ scale is 1 but in the last layer."""
    pair = ModelPair.load(
        zoo.source(architecture, kind),
        zoo.source(architecture, None),
        dtype=torch.float64,
        device="cpu",
    )
    scales = [p for n, p in pair.sides[A].model.named_parameters() if "ia3_l" in n]
    assert len(scales) == LAYERS
    for scale in scales[:-1]:
        scale.fill_(1)
    return pair


def exchanged(pair: ModelPair) -> ModelPair:
    """The same pair with its sides exchanged, so that the aligned model is the recipient."""
    return dataclasses.replace(pair, sides={A: pair.sides[U], U: pair.sides[A]})


# Teacher forcing.


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_forced_log_likelihoods_equal_one_prompt_at_a_time(zoo, architecture):
    pair, plain = both(zoo, architecture, KINDS[1])
    batch = ForcedBatch.of(prompts(), COMPLETIONS, pair)
    with torch.no_grad(), PairedRows(pair, dict.fromkeys(Side, len(batch))) as rows:
        logits = rows.forward(dict.fromkeys(Side, batch.tokens), logits=batch.targets.shape[1])
    for side in Side:
        sums = batch.log_likelihoods(logits[side]).sum(dim=1)
        for found, prompt, completion in zip(sums, prompts(), COMPLETIONS, strict=True):
            alone = logits_of(plain[side], [*prompt, *completion[:-1]])
            expected = mean_log_likelihood(alone, prompt, completion) * len(completion)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_forced_batch_reads_everything_but_the_last_completion_token(zoo):
    pair, _ = both(zoo, "llama", KINDS[0])
    batch = ForcedBatch.of(prompts(), COMPLETIONS, pair)
    for row, (prompt, completion) in enumerate(zip(prompts(), COMPLETIONS, strict=True)):
        read = batch.tokens.ids[row][batch.read_positions[row]]
        assert read.tolist() == [*prompt, *completion[:-1]]
        answering = batch.tokens.ids[row][batch.completion_positions[row]]
        assert answering.tolist() == [prompt[-1], *completion[:-1]]
        assert batch.targets[row][batch.scored[row]].tolist() == completion


def test_loading_twice_gives_the_same_sums(zoo):
    """Nothing random is left in a loaded pair (dropout, initialisation)."""
    sources = zoo.source("llama", "lora"), zoo.source("llama", "ia3")
    first, second = (ModelPair.load(*sources, dtype=torch.float64, device="cpu") for _ in range(2))
    assert torch.equal(
        batch_of(first, contrast).squared_difference, batch_of(second, contrast).squared_difference
    )
