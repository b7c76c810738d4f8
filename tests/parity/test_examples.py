"""Examples and co-activation against all activations at once, one document at a time."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch

from safety_neurons.engine import ALONE, Side
from safety_neurons.errors import InterventionError
from safety_neurons.methods import examples
from safety_neurons.methods.examples import Activity, Document, Peaks, activity
from safety_neurons.models import LoadedModel
from safety_neurons.units import SiteKind, UnitSpace
from tests.tiny import BOS, VOCABULARY, neurons_of

LENGTHS = (7, 2, 10, 5, 12, 1, 9, 6)
STARTS = (1, 0, 4, 1, 1, 0, 8, 6)
KEPT = 4
# No token stands twice: where a first layer reads tokens alone, equal ones would be ties that
# rounding breaks.
DRAWN = iter(random.Random(5).sample(range(7, VOCABULARY), sum(LENGTHS) - len(LENGTHS)))
DOCUMENTS = [
    Document(number, (BOS, *islice(DRAWN, length - 1)), counted)
    for number, (length, counted) in enumerate(zip(LENGTHS, STARTS, strict=True))
]
UNITS = [30, 3, 25]


def streamed(group, documents, size: int, space=None) -> dict:
    space = space or group.space()
    found = {role: Activity.zero(space, len(UNITS), KEPT) for role in group.members}
    for i in range(0, len(documents), size):
        batch = activity(group, documents[i : i + size], space, UNITS, kept=KEPT)
        for role, sums in batch.items():
            found[role] += sums
    return found


def naive(model, architecture: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of each document the activations that count, and all of them."""
    taken = []
    for document in DOCUMENTS:
        whole = torch.cat(neurons_of(model, architecture, document.tokens), dim=1)
        taken.append(whole[max(document.counted, 1) :])
    return taken, torch.cat(taken)


def require_same(found: Activity, model, architecture: str) -> None:
    taken, every = naive(model, architecture)
    assert found.positions == len(every)
    torch.testing.assert_close(found.total, every.sum(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.squares, every.square().sum(0), rtol=1e-9, atol=1e-9)
    expected = np.corrcoef(every.numpy(), rowvar=False)[UNITS]
    assert found.correlations(UNITS).numpy() == pytest.approx(expected, abs=1e-8)
    for place, unit in enumerate(UNITS):
        for sign, peaks in ((1.0, found.highest), (-1.0, found.lowest)):
            best = []
            for document, of_document in zip(DOCUMENTS, taken, strict=True):
                if len(of_document):
                    at = int((sign * of_document[:, unit]).argmax())
                    start = max(document.counted, 1)
                    value = sign * float(of_document[at, unit])
                    best.append((value, document.number, start + at))
            best.sort(key=lambda row: (-row[0], row[1]))
            shown = peaks.of(place)
            assert [row[1:] for row in shown] == [row[1:] for row in best[:KEPT]]
            values = [row[0] for row in best[:KEPT]]
            assert [row[0] for row in shown] == pytest.approx(values, rel=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["ia3", "lora"])
def test_it_is_what_all_activations_say_whatever_the_batches(zoo, architecture, kind):
    source = zoo.source(architecture, kind)
    model = LoadedModel.load(source, dtype=torch.float64, device="cpu")
    shuffled = list(DOCUMENTS)
    random.Random(1).shuffle(shuffled)
    for documents, size in ((DOCUMENTS, 8), (shuffled, 3), (DOCUMENTS[::-1], 1)):
        found = streamed(model, documents, size)[ALONE]
        require_same(found, zoo.model(source), architecture)


@pytest.mark.parametrize("shared", [True, False])
def test_both_models_of_a_pair_read_the_same(zoo, shared):
    aligned = zoo.source("llama", "ia3")
    unaligned = zoo.source("llama", None) if shared else str(zoo.base("llama", seed=3))
    pair = zoo.pair(aligned, unaligned)
    assert pair.shared is shared
    found = streamed(pair, DOCUMENTS, 3)
    require_same(found[Side.ALIGNED], zoo.model(aligned), "llama")
    require_same(found[Side.UNALIGNED], zoo.model(unaligned), "llama")


def test_channels_of_attention_stand_beside_neurons(zoo):
    model = LoadedModel.load(zoo.source("llama", None), dtype=torch.float64, device="cpu")
    space = model.space(SiteKind.MLP, SiteKind.ATTENTION)
    found = streamed(model, DOCUMENTS, 4, space)[ALONE]
    assert found.correlations(UNITS).shape == (len(UNITS), space.total)
    own = found.correlations(UNITS)[torch.arange(len(UNITS)), torch.tensor(UNITS)]
    torch.testing.assert_close(own, torch.ones_like(own))


def test_equal_values_are_in_the_order_of_documents():
    def one(value: float, number: int) -> Peaks:
        return Peaks(
            torch.tensor([[value]], dtype=torch.float64),
            torch.tensor([[number]]),
            torch.tensor([[0]]),
        )

    places = [one(1.0, 4), one(2.0, 7), one(1.0, 2), one(0.5, 0)]
    for order in (places, places[::-1]):
        found = sum(order, start=Peaks.none(1, 3))
        assert [row[:2] for row in found.of(0)] == [(2.0, 7), (1.0, 2), (1.0, 4)]
    assert Peaks.none(1, 3).of(0) == []


def test_a_unit_that_does_not_vary_goes_with_none():
    space = UnitSpace.neurons((2,))
    x = torch.tensor([[1e4 + 0.1, 1.0], [1e4 + 0.1, 2.0], [1e4 + 0.1, 4.0]], dtype=torch.float64)
    sums = Activity.zero(space, 1)
    sums.positions, sums.total, sums.squares = 3, x.sum(0), x.square().sum(0)
    sums.products = x[:, :1].T @ x
    assert sums.correlations([0]).tolist() == [[0.0, 0.0]]


def test_memory_does_not_grow_with_documents(zoo):
    model = LoadedModel.load(zoo.source("llama", None), dtype=torch.float64, device="cpu")
    sizes = []
    for documents in (DOCUMENTS[:2], DOCUMENTS * 4):
        sums = streamed(model, documents, 4)[ALONE]
        held = (sums.total, sums.squares, sums.products, sums.highest.values, sums.lowest.values)
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in held))
    assert sizes[0] == sizes[1]


def test_a_block_that_was_not_seen_is_an_error():
    counted = torch.ones(1, 2, dtype=torch.bool)
    space = UnitSpace.neurons((3, 3))
    edit = examples._Reading(DOCUMENTS[:1], counted, space, [0], KEPT)
    edit(space.keys[0], {ALONE: torch.zeros(1, 2, 3)})
    with pytest.raises(InterventionError, match="Nothing was seen of layer 1"):
        edit.end_pass()
