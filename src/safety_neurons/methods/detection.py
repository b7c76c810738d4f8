"""How well single units tell one kind of prompt from another: the area under the ROC curve.

It is the chance that a unit is larger on a prompt of the first kind than on one of the second,
equal values counted half. Its variance is DeLong's (1988), from each prompt's own share in it, so
that no resampling is needed for any number of units.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.errors import UserError

_Z = 1.959963984540054
LEAST = 2
"""Fewer prompts of a kind give no variance."""


@dataclass(frozen=True)
class Separation:
    """One figure for each unit.

    Args:
        auroc: 1 where the unit is always larger on the first kind, 0 where always smaller.
        variance: of that figure over prompts.
    """

    auroc: Float[Tensor, "unit"]
    variance: Float[Tensor, "unit"]

    @functools.cached_property
    def interval(self) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
        """Bounds at 95 % confidence, between 0 and 1."""
        half = _Z * self.variance.sqrt()
        return (self.auroc - half).clamp(min=0), (self.auroc + half).clamp(max=1)


def separation(
    first: Float[Tensor, "prompt unit"], second: Float[Tensor, "other_prompt unit"]
) -> Separation:
    """How well each unit tells prompts of a first kind from those of a second.

    Args:
        first, second: a value for each prompt and unit; the prompts need not be as many.

    Returns:
        Areas and their variances, float64.

    Raises:
        UserError: with fewer than LEAST prompts of a kind, or values that are no finite numbers.
    """
    if min(len(first), len(second)) < LEAST:
        raise UserError(
            f"Prompts of two kinds are told apart by at least {LEAST} of each, but {len(first)} "
            f"and {len(second)} were given."
        )
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise UserError("Some activations are no finite numbers; run the model in float32.")
    above = _placed(first, second)
    below = 1 - _placed(second, first)
    variance = above.var(dim=1) / len(first) + below.var(dim=1) / len(second)
    return Separation(above.mean(dim=1), variance)


def _placed(
    values: Float[Tensor, "prompt unit"], among: Float[Tensor, "other_prompt unit"]
) -> Float[Tensor, "unit prompt"]:
    """Of each value, the share of the other kind's that lie below it, equal ones counted half."""
    found = values.T.contiguous()
    others = among.T.sort(dim=1).values.contiguous()
    left = torch.searchsorted(others, found, right=False)
    right = torch.searchsorted(others, found, right=True)
    return (left + right).double() / (2 * others.shape[1])
