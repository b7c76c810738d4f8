"""Adapters on the embedding and the unembedding: rows are, to 1e-9, the models that PEFT makes.

The unembedding runs in some passes only and on some rows only; the embedding reads token ids.
"""

from __future__ import annotations

import pytest
import torch

from safety_neurons.engine import PairedRows, Side, Tokens
from safety_neurons.errors import InterventionError
from safety_neurons.inference import Decoding, Setting, left_padded
from safety_neurons.inference.perplexity import perplexities
from safety_neurons.methods import attribute, contrast
from safety_neurons.models import ModelPair
from safety_neurons.units import UnitSet
from tests.parity.test_contrast import (
    COMPLETIONS,
    assert_same_sums,
    attribution_by_hand,
    batch_of,
    both,
    contrast_by_hand,
)
from tests.parity.test_gating import EXACT, assert_rows_are_plain_models, side_logits
from tests.parity.test_patching import columns_of, some_neurons
from tests.tiny import (
    ARCHITECTURES,
    decode_patched,
    load,
    logits_of,
    neurons_of,
    overwritten_logits,
    patched,
    patched_generation,
    prompts,
)

A, U = Side.ALIGNED, Side.UNALIGNED
STEPS = 6
KINDS = [
    ("lora-lm-head", None),
    (None, "lora-embed"),
    ("lora-embed", "lora-lm-head"),
    ("lora-embed-lm-head", "lora-embed-lm-head"),
    ("ia3-lm-head", "lora-embed-lm-head"),
    ("lora-lm-head", "ia3-into-lm-head"),
]
BOTH = ("ia3-lm-head", "lora-embed-lm-head")
each_pair = pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: f"{kinds[0]}-{kinds[1]}")
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def sources_of(zoo, architecture: str, kinds) -> dict[Side, str]:
    """Two adapters of one kind have different numbers."""
    return {
        side: zoo.source(architecture, kind, seed=seed)
        for seed, (side, kind) in enumerate(zip(Side, kinds, strict=True))
    }


@each_pair
@each_architecture
def test_each_side_equals_plain_peft(zoo, architecture, kinds):
    sources = sources_of(zoo, architecture, kinds)
    pair = zoo.pair(*sources.values())
    assert pair.shared
    assert_rows_are_plain_models(zoo, pair, sources)
    plain = load(zoo.base(architecture))
    for source, kind in zip(sources.values(), kinds, strict=True):
        moved = logits_of(zoo.model(source), prompts()[0]) - logits_of(plain, prompts()[0])
        assert (moved.abs().max() > 1e-2) == (kind is not None)


@each_pair
@each_architecture
def test_separate_weights_equal_plain_peft(zoo, architecture, kinds):
    sources = sources_of(zoo, architecture, kinds)
    base, copy = str(zoo.base(architecture)), str(zoo.copy(architecture))
    pair = zoo.pair(sources[A], sources[U].replace(base, copy, 1))
    assert not pair.shared
    assert_rows_are_plain_models(zoo, pair, sources)


@pytest.mark.parametrize(
    "kind", ["lora-embed", "lora-lm-head", "lora-embed-lm-head", "ia3-lm-head"]
)
@each_architecture
def test_with_tied_weights_only_the_named_end_changes(zoo, architecture, kind):
    """PEFT leaves the tied matrix as it is, so that one end's adapter is not the other's."""
    base = zoo.base(architecture, tie_word_embeddings=True)
    adapted = f"{base}+{zoo.adapter(architecture, kind)}"
    plain = load(base)
    ends = (plain.get_input_embeddings().weight, plain.get_output_embeddings().weight)
    assert ends[0].data_ptr() == ends[1].data_ptr()
    for sources in ({A: adapted, U: str(base)}, {A: str(base), U: adapted}):
        pair = zoo.pair(*sources.values())
        assert pair.shared
        assert_rows_are_plain_models(zoo, pair, sources)


@torch.no_grad()
@pytest.mark.parametrize("kinds", [KINDS[2], KINDS[3], BOTH], ids=str)
@each_architecture
def test_any_pass_may_read_logits_of_any_side(zoo, architecture, kinds):
    """Trunk alone, both sides, one side, all positions or the last, in any order."""
    sources = sources_of(zoo, architecture, kinds)
    pair, asked = zoo.pair(*sources.values()), {A: prompts((5, 5)), U: prompts((5, 5, 5), seed=3)}
    expected = {
        side: torch.stack([logits_of(zoo.model(source), p) for p in asked[side]])
        for side, source in sources.items()
    }
    tokens = {side: left_padded(asked[side], pair) for side in Side}
    with PairedRows(pair, {side: len(asked[side]) for side in Side}) as rows:
        for logits, of in [(None, None), (0, U), (0, None), (None, A), (1, A), (2, None), (1, U)]:
            found = rows.forward(tokens, logits=logits, of=of)
            assert found.keys() == set() if logits is None else set(Side if of is None else [of])
            for side, values in found.items():
                kept = expected[side][:, -logits:]
                torch.testing.assert_close(values, kept, **EXACT)


@torch.no_grad()
@each_architecture
def test_cached_passes_equal_plain_peft(zoo, architecture):
    """Rows are rearranged between the passes, and one side's logits are read at a time."""
    sources = sources_of(zoo, architecture, BOTH)
    pair, (prompt,) = zoo.pair(*sources.values()), prompts((9,))
    plain = {side: logits_of(zoo.model(source), prompt) for side, source in sources.items()}
    ids = torch.tensor([prompt])
    with PairedRows(pair, dict.fromkeys(Side, 1), cached=True) as rows:
        first = Tokens(ids[:, :4], torch.ones(1, 4, dtype=torch.long))
        rows.forward(dict.fromkeys(Side, first), logits=None)
        rows.rearrange({A: torch.tensor([0, 0, 0]), U: torch.tensor([0, 0])})
        for at, of in ((4, U), (5, A), (6, None), (7, U)):
            tokens = {
                side: Tokens(ids[:, at : at + 1].repeat(n, 1), ids.new_ones(n, at + 1))
                for side, n in ((A, 3), (U, 2))
            }
            for side, found in rows.forward(tokens, of=of).items():
                for row in found:
                    torch.testing.assert_close(row[0], plain[side][at], **EXACT)


@pytest.fixture
def watched(monkeypatch) -> list[torch.Tensor]:
    """The logits that `decode` chose from, a tensor for each pass that read any."""
    seen: list[torch.Tensor] = []
    forward = PairedRows.forward

    def watching(self, tokens, **options):
        out = forward(self, tokens, **options)
        seen.extend(out.values())
        return out

    monkeypatch.setattr(PairedRows, "forward", watching)
    return seen


@pytest.mark.parametrize("recipient", [A, U])
@pytest.mark.parametrize("kinds", [KINDS[2], BOTH], ids=str)
@each_architecture
def test_patched_decoding_equals_plain_models(zoo, watched, architecture, kinds, recipient):
    sources = sources_of(zoo, architecture, kinds)
    pair, asked = zoo.pair(*sources.values()), prompts()
    patches = [some_neurons(pair), UnitSet.of(torch.empty(0), pair.space())]
    donor, model = (zoo.model(sources[side]) for side in (recipient.other, recipient))
    expected = [
        [
            patched_generation(donor, model, architecture, prompt, columns_of(patch), STEPS)
            for prompt in asked
        ]
        for patch in patches
    ]
    found = decode_patched(pair, asked, recipient, patches, max_new_tokens=STEPS)
    assert found == [[tokens for tokens, _ in of_patch] for of_patch in expected]
    assert found[0] != found[1]
    # One prompt alone, so that the rows of its passes are known.
    watched.clear()
    decode_patched(pair, asked[:1], recipient, patches[:1], max_new_tokens=STEPS)
    logits = torch.cat([one[:, -1] for one in watched])
    torch.testing.assert_close(logits, expected[0][0][1], **EXACT)


@pytest.mark.parametrize("kinds", [KINDS[2], BOTH], ids=str)
@each_architecture
def test_contrast_equals_plain_models(zoo, architecture, kinds):
    pair, plain = both(zoo, architecture, kinds)
    assert_same_sums(batch_of(pair, contrast), contrast_by_hand(plain, architecture))


@pytest.mark.parametrize("kinds", [KINDS[2], BOTH], ids=str)
@each_architecture
def test_attribution_equals_plain_autograd(zoo, architecture, kinds):
    pair, plain = both(zoo, architecture, kinds)
    found, expected = batch_of(pair, attribute), attribution_by_hand(plain, architecture)
    torch.testing.assert_close(found.attribution, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_perplexities_equal_plain_models(zoo, architecture):
    pair, plain = both(zoo, architecture, BOTH)
    neurons = some_neurons(pair)
    nats, count = dict.fromkeys((*Side, "patched"), 0.0), 0
    for prompt, completion in zip(prompts(), COMPLETIONS, strict=True):
        read, last = [*prompt, *completion[:-1]], len(completion)
        values = neurons_of(plain[A], architecture, read)
        logits = {side: logits_of(plain[side], read) for side in Side}
        logits["patched"] = overwritten_logits(
            plain[U], architecture, read, columns_of(neurons), values
        )
        for name, rows in logits.items():
            likelihood = rows[-last:].log_softmax(dim=-1)
            nats[name] -= float(likelihood[torch.arange(last), torch.tensor(completion)].sum())
        count += last
    expected = {name: float(torch.tensor(n / count).exp()) for name, n in nats.items()}
    settings = {A: Setting(A), U: Setting(U), "patched": patched(U, neurons)}
    found = perplexities(pair, prompts(), COMPLETIONS, settings, Decoding(batch_size=2))
    assert found == pytest.approx(expected, rel=1e-6)


# Precision.


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["lora", "lora-rs", "lora-embed-lm-head", "ia3-kv", "ia3-lm-head"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_an_adapter_rounds_as_in_peft(zoo, architecture, kind, dtype):
    """Bit for bit: what it adds is not rounded to the base's precision before it is added."""
    sources = zoo.source(architecture, kind), zoo.source(architecture, None)
    pair = ModelPair.load(*sources, dtype=dtype, device="cpu")
    asked = prompts((8, 8))
    found = side_logits(pair, {A: asked})[A]
    plain = load(zoo.base(architecture), zoo.adapter(architecture, kind), dtype=dtype)
    expected = plain(input_ids=torch.tensor(asked), use_cache=False).logits
    for row, of_plain in zip(found, expected, strict=True):
        assert row.dtype == dtype
        assert torch.equal(row, of_plain)


# What must not pass unnoticed.


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lora-lm-head", "ia3-lm-head"])
def test_an_unembedding_that_is_bypassed_is_an_error(zoo, kind, monkeypatch):
    pair = ModelPair.load(
        zoo.source("llama", kind), zoo.source("llama", None), dtype=torch.float64, device="cpu"
    )
    head = pair.sides[A].model.lm_head
    weight = head.base_layer.weight
    monkeypatch.setattr(head, "forward", lambda x: torch.nn.functional.linear(x, weight))
    tokens = dict.fromkeys(Side, left_padded(prompts((3, 3)), pair))
    with PairedRows(pair, dict.fromkeys(Side, 2)) as rows:
        rows.forward(tokens, logits=None)
        with pytest.raises(
            InterventionError, match=r"unembedding .*lm_head\[aligned\] \(0 calls\)"
        ):
            rows.forward(tokens)


@torch.no_grad()
def test_a_bypassed_unembedding_without_adapter_is_an_error_too(zoo, monkeypatch):
    """Its rows would be taken for those of the side that was asked for."""
    pair = ModelPair.load(*[str(zoo.base("llama"))] * 2, dtype=torch.float64, device="cpu")
    model = pair.sides[A].model
    tokens = dict.fromkeys(Side, left_padded(prompts((3, 3)), pair))
    monkeypatch.setattr(model, "get_output_embeddings", lambda: torch.nn.Identity())
    with (
        PairedRows(pair, dict.fromkeys(Side, 2)) as rows,
        pytest.raises(InterventionError, match=r"unembedding \(0 calls\)"),
    ):
        rows.forward(tokens, of=A)


def test_hooks_of_both_ends_are_gone_afterwards(zoo):
    pair = zoo.pair(*sources_of(zoo, "llama", BOTH).values())
    decode_patched(pair, prompts(), U, [some_neurons(pair)], max_new_tokens=2)
    modules = pair.sides[A].model.modules()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules) == 0
