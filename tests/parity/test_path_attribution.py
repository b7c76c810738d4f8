"""Path attribution, against plain torch: one prompt at a time, without a cache."""

from __future__ import annotations

import pytest
import torch

from safety_neurons.engine import Side
from safety_neurons.methods import RankingInRounds, scored
from safety_neurons.methods.attribution import AttributionSums
from safety_neurons.methods.path_attribution import (
    CONTEXTS,
    DECAY,
    HARMLESS_CONTEXTS,
    HARMLESS_WEIGHT,
    HORIZON,
    PATH_ATTRIBUTION,
    attribute_along,
    midpoints,
)
from safety_neurons.units import BlockKey, UnitSet
from tests.tiny import (
    ARCHITECTURES,
    EOS,
    LAYERS,
    down_projections,
    logits_of,
    neurons_of,
    pre_hooks,
    prompts,
)

A, U = Side.ALIGNED, Side.UNALIGNED
COMPLETIONS = [[20, 21, 22, 23, EOS], [30], [40, 41, EOS]]
KINDS = [("ia3", None), ("ia3-kv", "lora")]


def models(zoo, architecture, kinds):
    sources = {s: zoo.source(architecture, k) for s, k in zip(Side, kinds, strict=True)}
    return zoo.pair(*sources.values()), {s: zoo.model(source) for s, source in sources.items()}


def weighted(logits, prompt, completion):
    predicted = torch.log_softmax(logits[len(prompt) - 1 :], dim=-1)
    weights = [DECAY**i for i in range(len(completion))]
    gained = sum(w * predicted[i, t] for i, (t, w) in enumerate(zip(completion, weights)))  # noqa: B905
    return gained / sum(weights)


def by_hand(plain, architecture, moved, strengths):
    """Gradients with respect to what plain hooks put in the place of the neurons."""
    parts = torch.zeros(moved.space.total, dtype=torch.double)
    inside = torch.zeros(moved.space.total, dtype=torch.double)
    inside[moved.flat] = 1
    per_layer = [inside[moved.space.slice_of(key)] for key in moved.space.keys]
    sites = down_projections(plain[U], architecture)
    for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
        tokens = [*prompt, *completion[:-1]]
        donated = neurons_of(plain[A], architecture, tokens)
        for strength in strengths:
            put, way = {}, {}

            def move(layer, x, donated=donated, strength=strength, put=put, way=way):
                way[layer] = (donated[layer] - x).detach()
                moved_to = x + strength * per_layer[layer] * (donated[layer] - x)
                put[layer] = moved_to if moved_to.requires_grad else moved_to.requires_grad_()
                put[layer].retain_grad()
                return put[layer]

            with pre_hooks(sites, move):
                weighted(logits_of(plain[U], tokens), prompt, completion).backward()
            found = [
                (way[i].reshape(-1, way[i].shape[-1]) * put[i].grad.reshape(way[i].shape[-2:])).sum(
                    0
                )
                for i in range(LAYERS)
            ]
            parts += torch.cat(found) / len(strengths)
    return parts


@pytest.mark.parametrize("which", ["all", "few", "none"])
@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: f"{kinds[0]}-{kinds[1]}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_ragged_batch_equals_plain_autograd(zoo, architecture, kinds, which):
    pair, plain = models(zoo, architecture, kinds)
    space = pair.space()
    chosen = {"all": torch.arange(space.total), "few": torch.tensor([1, 5, 30]), "none": []}[which]
    moved = UnitSet.of(torch.as_tensor(chosen), space)
    found = attribute_along(pair, prompts(), COMPLETIONS, moved, (0.25, 0.75))
    assert found.prompts == 3
    expected = by_hand(plain, architecture, moved, (0.25, 0.75))
    assert expected.abs().max() > 1e-3
    # Norms are computed in float32 whatever the weights are, and the cache changes their order.
    torch.testing.assert_close(found.attribution, expected, rtol=2e-6, atol=3e-7)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt_neox"])
def test_separate_weights_equal_shared(zoo, architecture):
    shared = zoo.pair(zoo.source(architecture, "ia3-kv"), zoo.source(architecture, None))
    separate = zoo.pair(zoo.source(architecture, "ia3-kv"), str(zoo.copy(architecture)))
    assert not separate.shared
    moved = UnitSet.all(shared.space())
    one, other = (
        attribute_along(pair, prompts(), COMPLETIONS, moved, (0.5,)) for pair in (shared, separate)
    )
    torch.testing.assert_close(one.attribution, other.attribution, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_units_of_one_layer_have_what_moving_them_gains(zoo, architecture):
    """The integral over many midpoints is the measured gain in likelihood: it is complete."""
    pair, plain = models(zoo, architecture, ("ia3", None))
    space = pair.space()
    block = space.slice_of(BlockKey(0))
    moved = UnitSet.of(torch.arange(block.start, block.stop), space)
    found = attribute_along(pair, prompts(), COMPLETIONS, moved, midpoints(64))
    sites = down_projections(plain[U], architecture)
    gained = 0.0
    for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
        tokens = [*prompt, *completion[:-1]]
        donated = neurons_of(plain[A], architecture, tokens)
        before = weighted(logits_of(plain[U], tokens), prompt, completion)
        with pre_hooks(sites, lambda layer, x, d=donated: d[0].view_as(x) if layer == 0 else x):
            gained += float(weighted(logits_of(plain[U], tokens), prompt, completion) - before)
    assert abs(gained) > 1e-3
    assert float(found.attribution[block].sum()) == pytest.approx(gained, rel=1e-3)


def test_nothing_behind_the_horizon_is_read(zoo):
    pair, _ = models(zoo, "llama", KINDS[0])
    moved = UnitSet.all(pair.space())
    long = [[20 + i % 7 for i in range(HORIZON + 5)]] * 3
    cut = [completion[:HORIZON] for completion in long]
    one, other = (attribute_along(pair, prompts(), c, moved, (0.5,)) for c in (long, cut))
    assert torch.equal(one.attribution, other.attribution)


def test_rounds_know_what_those_before_found(zoo):
    pair, _ = models(zoo, "llama", KINDS[0])
    space = pair.space()
    assert isinstance(PATH_ATTRIBUTION, RankingInRounds)
    rounds, found = [], []

    def summed(method) -> AttributionSums:
        rounds.append(method)
        found.append(method.measure(pair, prompts(), COMPLETIONS, space))
        return found[-1]

    scores = scored(PATH_ATTRIBUTION, space, summed)
    harmful = 1 + len(CONTEXTS)
    assert [r.on_harmless for r in rounds] == [False] * harmful + [True] * len(HARMLESS_CONTEXTS)
    assert rounds[0].moved is None
    assert all(len(r.moved) == 1 for r in rounds[1:])  # of 48 neurons
    assert rounds[1].moved.flat.tolist() == [int(found[0].attribution.argmax())]
    assert rounds[1].version != rounds[-1].version
    # By hand: the leading share of 48 neurons is one of them.
    led = [of.attribution.max() / 3 for of in found[:harmful]]
    by_hand = sum(of.attribution / 3 / one for of, one in zip(found, led)) / harmful  # noqa: B905
    kept = sum(of.attribution / 3 for of in found[harmful:]) / len(HARMLESS_CONTEXTS)
    by_hand = by_hand + HARMLESS_WEIGHT * kept / led[1 + CONTEXTS.index(HARMLESS_CONTEXTS[0])]
    torch.testing.assert_close(scores, by_hand, rtol=1e-12, atol=1e-12)


def test_a_pair_of_the_same_model_has_no_score(zoo):
    pair = zoo.pair(zoo.source("llama", None), zoo.source("llama", None))
    space = pair.space()
    scores = scored(
        PATH_ATTRIBUTION, space, lambda r: r.measure(pair, prompts(), COMPLETIONS, space)
    )
    assert scores.abs().max() == 0


def test_midpoints_are_the_middles_of_even_parts():
    assert midpoints(4) == (0.125, 0.375, 0.625, 0.875)
