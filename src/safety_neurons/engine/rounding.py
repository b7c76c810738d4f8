"""How far two ways to compute the same figures may lie apart.

The order of sums is the device's affair: on a GPU it changes with the size of a batch. On the
embedded pair in float32 that moved logits by 2.7e-5 of the largest on an H200.
"""

from __future__ import annotations

import torch
from torch import Tensor

SINGLE = 1e-4
"""What float32 may differ in, as a part of the largest figure."""
ALLOWED = {torch.float32: SINGLE, torch.float64: 1e-5}
"""The same by precision; norms of many models are computed in float32 in float64, too."""


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference of two tensors, as a part of the largest figure that is wanted."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
