"""Areas under ROC curves: by counting pairs, by hand, and by resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safety_neurons.errors import UserError
from safety_neurons.methods.detection import separation


def by_pairs(first, second) -> float:
    return float(
        np.mean([(a > b) + 0.5 * (a == b) for a in first.tolist() for b in second.tolist()])
    )


def test_areas_are_shares_of_pairs_with_ties_counted_half():
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 6, (13, 5), generator=generator).float()
    second = torch.randint(0, 5, (9, 5), generator=generator).float()
    found = separation(first, second)
    for unit in range(5):
        assert found.auroc[unit].item() == pytest.approx(by_pairs(first[:, unit], second[:, unit]))
    other_way = separation(second, first)
    torch.testing.assert_close(other_way.auroc, 1 - found.auroc)
    torch.testing.assert_close(other_way.variance, found.variance)


def test_the_ends_and_a_constant():
    first, second = (
        torch.tensor([[3.0, 1.0, 5.0], [4.0, 0.0, 5.0]]),
        torch.tensor([[1.0, 3.0, 5.0], [2.0, 4.0, 5.0]]),
    )
    found = separation(first, second)
    assert found.auroc.tolist() == [1, 0, 0.5]
    assert found.variance.tolist() == [0, 0, 0]
    low, high = found.interval
    assert ((low >= 0) & (high <= 1)).all()


def test_the_variance_is_that_of_new_samples():
    generator = torch.Generator().manual_seed(1)

    def drawn(n: int, shift: float) -> torch.Tensor:
        return torch.randn(n, 4000, generator=generator) + shift

    found = separation(drawn(30, 1.0), drawn(40, 0.0))  # 4,000 samples of one experiment
    spread = found.auroc.var().item()
    assert found.variance.mean().item() == pytest.approx(spread, rel=0.1)
    low, high = found.interval
    truth = 0.5 * (1 + torch.erf(torch.tensor(0.5)).item())
    covered = ((low <= truth) & (truth <= high)).double().mean().item()
    assert 0.92 < covered < 0.97


def test_too_few_prompts_and_broken_values_are_refused():
    with pytest.raises(UserError, match="at least 2"):
        separation(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(UserError, match="finite"):
        separation(torch.full((2, 3), torch.nan), torch.zeros(4, 3))
