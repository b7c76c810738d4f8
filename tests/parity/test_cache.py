"""The cache with room holds, after any change of rows, what transformers' own one holds."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from safety_neurons.engine.cache import RowCache
from tests.tiny import LAYERS, load

ROWS = [
    [0, 0, 1, 2, 2, 1],  # more
    [0, 1, 2, 3, 4, 5],  # the same
    [0, 1, 2, 3, 4, 5, 3, 0],  # some more at the end
    [7, 1, 5],  # fewer, in another order
    [2, 2, 0, 1, 0],
    [4],
]


@pytest.mark.parametrize("architecture", ["llama", "mistral"])  # without and with windows
def test_any_rows_at_any_time(zoo, architecture):
    config = load(zoo.base(architecture)).config
    ours, theirs = RowCache(config), DynamicCache(config=config)
    generator, rows = torch.Generator().manual_seed(0), 3
    for step, (selected, tokens) in enumerate(zip(ROWS, (5, 1, 40, 1, 1, 30), strict=True)):
        for _ in range(2):  # several tokens at once, then one
            new = torch.randn(2, rows, 2, tokens, 4, generator=generator)
            for layer in range(LAYERS):
                found = ours.update(new[0] + layer, new[1] - layer, layer)
                expected = theirs.update(new[0] + layer, new[1] - layer, layer)
                for ours_now, theirs_now in zip(found, expected, strict=True):
                    assert torch.equal(ours_now, theirs_now), step
            tokens = 1
        ours.reorder_cache(torch.tensor(selected))
        theirs.reorder_cache(torch.tensor(selected))
        rows = len(selected)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_staying_rows_are_not_copied(zoo):
    cache = RowCache(load(zoo.base("llama")).config)
    cache.update(torch.ones(3, 2, 4, 4), torch.ones(3, 2, 4, 4), 0)
    cache.reorder_cache(torch.tensor([0, 1, 2, 0]))  # makes room for a row
    before = cache.layers[0].keys.data_ptr()
    cache.update(torch.ones(4, 2, 1, 4), torch.ones(4, 2, 1, 4), 0)
    cache.reorder_cache(torch.tensor([0, 1, 2, 1]))
    cache.reorder_cache(torch.tensor([0, 1]))
    assert cache.layers[0].keys.data_ptr() == before
