"""The second kind of site: what holds of neurons holds of attention's channels, and of both."""

from __future__ import annotations

import pytest
import torch

from safety_neurons.engine import PairedRows, Side
from safety_neurons.inference import ForcedBatch, Setting, decode
from safety_neurons.interventions import Patch
from safety_neurons.methods import attribute, contrast
from safety_neurons.models import ModelPair
from safety_neurons.units import SiteKind, UnitSet, UnitSpace
from tests.parity.test_contrast import COMPLETIONS, mean_log_likelihood
from tests.tiny import (
    ARCHITECTURES,
    LAYERS,
    decode_patched,
    neurons_of,
    patch_edit,
    patched_generation,
    prompts,
)

A, U = Side.ALIGNED, Side.UNALIGNED
ATTENTION, MLP = SiteKind.ATTENTION, SiteKind.MLP
WIDTH = 16
STEPS = 6


def pair_of(zoo, architecture: str) -> tuple[ModelPair, dict]:
    sources = {A: zoo.source(architecture, "ia3-kv"), U: zoo.source(architecture, "lora")}
    return zoo.pair(*sources.values()), {side: zoo.model(s) for side, s in sources.items()}


def some(space: UnitSpace, share: float = 0.4, seed: int = 0) -> UnitSet:
    drawn = torch.randperm(space.total, generator=torch.Generator().manual_seed(seed))
    return UnitSet.of(drawn[: round(share * space.total)], space)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contrast_sums_equal_one_prompt_at_a_time(zoo, architecture):
    pair, models = pair_of(zoo, architecture)
    sums = contrast(pair, prompts(), COMPLETIONS, pair.space(ATTENTION))
    squared, positions = torch.zeros(LAYERS * WIDTH, dtype=torch.float64), 0
    for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
        tokens = [*prompt, *completion[:-1]]
        a, u = (torch.cat(neurons_of(models[s], architecture, tokens, "out"), 1) for s in (A, U))
        squared += (a - u)[len(prompt) - 1 :].square().sum(0)
        positions += len(completion)
    assert sums.positions == positions
    torch.testing.assert_close(sums.squared_difference, squared, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_patched_answers_equal_the_reference(zoo, architecture, separate):
    other = zoo.copy(architecture) if separate else zoo.base(architecture)
    adapted = zoo.source(architecture, "ia3-kv")
    pair = zoo.pair(adapted, str(other))
    units = some(pair.space(ATTENTION))
    columns: dict[int, list[int]] = {}
    for name in units.names:
        layer, channel = name[1:].split(".A")
        columns.setdefault(int(layer), []).append(int(channel))
    donor, recipient = zoo.model(adapted), zoo.model(str(other))
    expected = [
        patched_generation(donor, recipient, architecture, p, columns, STEPS, "out")[0]
        for p in prompts()
    ]
    assert decode_patched(pair, prompts(), U, [units], max_new_tokens=STEPS) == [expected]


@torch.no_grad()
def likelihood(pair: ModelPair, units: UnitSet | None) -> torch.Tensor:
    """Sum over prompts of the aligned answer's mean log-likelihood in the patched model."""
    batch = ForcedBatch.of(prompts(), COMPLETIONS, pair)
    edits = [] if units is None else [patch_edit(units, A)]
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


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_attribution_predicts_what_patching_a_block_does(zoo, architecture):
    """Channels of the second layer: the scale of the first layer's neurons moves them a little."""
    pair = zoo.pair(zoo.source(architecture, "ia3-near-one"), zoo.source(architecture, None))
    space = pair.space(ATTENTION)
    block = torch.arange(space.total)[space.slice_of(space.keys[-1])]
    predicted = attribute(pair, prompts(), COMPLETIONS, space).attribution[block].sum()
    measured = likelihood(pair, UnitSet.of(block, space)) - likelihood(pair, None)
    assert abs(measured) > 1e-7
    assert float(predicted / measured) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "gpt_neox"])
def test_both_kinds_in_one_space_are_both_kinds_side_by_side(zoo, architecture):
    pair, _ = pair_of(zoo, architecture)
    both = pair.space(MLP, ATTENTION)
    assert both.total == pair.space(MLP).total + pair.space(ATTENTION).total
    for measure, of in ((contrast, "squared_difference"), (attribute, "attribution")):
        together = getattr(measure(pair, prompts(), COMPLETIONS, both), of)
        for kind in (MLP, ATTENTION):
            alone = pair.space(kind)
            own = getattr(measure(pair, prompts(), COMPLETIONS, alone), of)
            for key in alone.keys:
                found = together[both.slice_of(key)]
                torch.testing.assert_close(found, own[alone.slice_of(key)], rtol=0, atol=1e-12)


def test_patches_of_both_kinds_act_together(zoo):
    """One set over both kinds does what one intervention for each kind does."""
    pair, _ = pair_of(zoo, "llama")
    both = pair.space(MLP, ATTENTION)
    together = some(both)
    parts = []
    for kind in (MLP, ATTENTION):
        alone = pair.space(kind)
        flat = [together.in_block(key) + alone.slice_of(key).start for key in alone.keys]
        parts.append(UnitSet.of(torch.cat(flat), alone))
    (found,) = decode_patched(pair, prompts(), U, [together], max_new_tokens=STEPS)
    setting = Setting(U, tuple(Patch(part) for part in parts))
    (expected,) = decode(pair, prompts(), [setting], max_new_tokens=STEPS)
    (plain,) = decode_patched(pair, prompts(), U, max_new_tokens=STEPS)
    assert found == expected != plain
