"""Scales of chosen neurons, fitted so that the model refuses what the aligned one refuses.

The loss of a step is the mean over canary prompts of the cross entropy between both models'
decisions to refuse, by openings of answers: harmful prompts, and harmless and borderline ones,
which hold back what would refuse too much. Beside it: the candidate's own answers to harmless
prompts and rows of the task, which are held where they are, and a tether to 1. The weights that
read the neurons are scaled; nothing else is trained.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import parametrize

from safety_neurons.engine import ALONE
from safety_neurons.engine.sites import holding, input_axis
from safety_neurons.errors import UserError
from safety_neurons.inference import log_likelihoods
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Progress
from safety_neurons.studies.openings import OpeningSets, weighed_openings
from safety_neurons.units import UnitSet

STEPS = 50
RATE = 0.05
BATCH = 4
"""Prompts or rows of each kind in a step."""
SOFT = 2.0
"""Nats of margin per unit of log-odds: beyond a few nats a decision is one, whatever the margin."""
HOLD = 0.3
"""Weight of harmless answers and of the task's rows, nats per token."""
TETHER = 0.02
"""Weight of the mean squared distance of scales from 1: of two fits the smaller change."""

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its answer."""


@dataclass(frozen=True)
class Decided:
    """Prompts with what the aligned model makes of them.

    Args:
        prompts: token ids.
        margins: of refusal openings above the others, less the threshold, in nats.
    """

    prompts: Sequence[Sequence[int]]
    margins: Sequence[float]


@dataclass(frozen=True)
class Canaries:
    """What scales are fitted on; none of it is looked at again.

    Args:
        decided: by kind of prompts.
        harmless: with the candidate's own answers.
        task: with the task's.
    """

    decided: Sequence[Decided]
    harmless: Sequence[Row]
    task: Sequence[Row]


class _ScaledColumns(nn.Module):
    """A weight with some of its columns (or rows) times factors."""

    def __init__(self, index: Int[Tensor, "k"], axis: int, factors: nn.Parameter) -> None:
        super().__init__()
        self.index, self.axis, self.factors = index, axis, factors

    def forward(self, weight: Tensor) -> Tensor:
        whole = torch.ones(weight.shape[self.axis], dtype=weight.dtype, device=weight.device)
        whole = whole.index_copy(0, self.index, self.factors.to(weight.dtype))
        return weight * (whole if self.axis == 1 else whole[:, None])


def fit_scales(
    model: LoadedModel,
    units: UnitSet,
    openings: OpeningSets,
    threshold: float,
    canaries: Canaries,
    progress: Progress,
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> Float[Tensor, "k"]:
    """Factors of `units`, in the order of the set; the model is as before afterwards.

    Args:
        model: a plain one, without an adapter.
        openings, threshold: by which decisions are told.

    Returns:
        One factor a unit, float32, on the CPU.

    Raises:
        UserError: if the training leaves the finite numbers.
    """
    order = random.Random(seed)
    with _parametrized(model, units) as factors:
        optimiser = torch.optim.Adam(factors, lr=RATE)
        for step in progress.track(range(steps), f"Fitting {len(units):,} scales"):
            optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
            optimiser.zero_grad()
            held = torch.cat([*factors])
            loss = TETHER * (held - 1).square().mean()
            for of in canaries.decided:
                few = order.sample(range(len(of.prompts)), min(BATCH, len(of.prompts)))
                loss = loss + _disagreement(model, openings, threshold, of, few)
            for rows in (canaries.harmless, canaries.task):
                if rows:
                    chosen = order.sample(list(rows), min(BATCH, len(rows)))
                    loss = loss + HOLD * _nats(model, chosen)
            loss.backward()
            if not bool(torch.isfinite(loss)):
                raise UserError("Fitting scales left the finite numbers; repair in float32.")
            optimiser.step()
        return torch.cat([of.detach().float().cpu() for of in factors])


@contextlib.contextmanager
def _parametrized(model: LoadedModel, units: UnitSet) -> Iterator[list[nn.Parameter]]:
    """The projections that read `units` with factors on them inside the block."""
    factors, modules = [], []
    try:
        for site, index in holding(model.hooked.sites, units):
            index = index.to(model.device)
            own = nn.Parameter(torch.ones(len(index), device=model.device))
            scaled = _ScaledColumns(index, input_axis(site.module), own)
            parametrize.register_parametrization(site.module, "weight", scaled)
            modules.append(site.module)
            factors.append(own)
        yield factors
    finally:
        for module in modules:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def _disagreement(
    model: LoadedModel,
    openings: OpeningSets,
    threshold: float,
    of: Decided,
    few: Sequence[int],
) -> Float[Tensor, ""]:
    """The mean cross entropy of decisions on some prompts."""
    margins = weighed_openings(model, ALONE, openings, [of.prompts[i] for i in few]) - threshold
    wanted = torch.tensor([of.margins[i] for i in few], device=margins.device)
    found: Tensor = binary_cross_entropy_with_logits(
        margins / SOFT, (wanted / SOFT).sigmoid().to(margins)
    )
    return found


def _nats(model: LoadedModel, rows: Sequence[Row]) -> Float[Tensor, ""]:
    """The loss per token of some rows."""
    found, tokens = log_likelihoods(
        model, ALONE, [prompt for prompt, _ in rows], [[list(answer)] for _, answer in rows]
    )
    return -found.sum() / tokens.sum()
