"""Scales of chosen neurons, fitted so that the model refuses what the aligned one refuses.

The loss of a step is the mean over canary prompts of the cross entropy between both models'
decisions to refuse, by openings of answers: harmful prompts, and harmless and borderline ones,
which hold back what would refuse too much. Beside it: the candidate's own answers to harmless
prompts and rows of the task, which are held where they are, and a tether to 1. The weights that
read the neurons are scaled; nothing else is trained.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from safety_neurons.engine import ALONE, Activations
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference import log_likelihoods
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Progress
from safety_neurons.storage import digest, remove
from safety_neurons.studies.checkpoint import Checkpoint
from safety_neurons.studies.openings import Opening, refusal_odds
from safety_neurons.units import BlockKey, UnitSet

STEPS = 40
RATE = 0.05
BATCH = 2
"""Prompts or rows of each kind in a step."""
HOLD = 0.3
"""Weight of harmless answers and of the task's rows, nats per token."""
SHARP = 3.0
"""What the aligned model's log-odds are multiplied by before they are fitted to: near the
threshold it decides with little margin, and what is fitted to as little is lost elsewhere."""
TETHER = 0.02
"""Weight of the mean squared distance of scales from 1: of two fits the smaller change."""

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its answer."""


@dataclass(frozen=True)
class Decided:
    """Prompts with what the aligned model makes of them.

    Args:
        prompts: token ids, as the model that is fitted reads them.
        odds: the aligned model's log-odds of refusal openings, less the threshold.
    """

    prompts: Sequence[Sequence[int]]
    odds: Sequence[float]


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


def version() -> str:
    """Everything here that decides a fit, so that kept ones of other rules are not used."""
    return f"5 {STEPS} {RATE} {BATCH} {HOLD} {SHARP} {TETHER}"


class _Scaling:
    """A site edit: some units of each block times factors that are trained."""

    def __init__(self, units: UnitSet, device: torch.device) -> None:
        self._index = {
            key: index.to(device) for key in units.space.keys if len(index := units.in_block(key))
        }
        self.factors = {
            key: torch.nn.Parameter(torch.ones(len(index), device=device))
            for key, index in self._index.items()
        }
        self._acted: set[BlockKey] = set()

    @property
    def blocks(self) -> Collection[BlockKey]:
        return self._index.keys()

    def __call__(self, block: BlockKey, roles: Activations) -> Activations:
        x = roles[ALONE]
        whole = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
        whole = whole.index_copy(0, self._index[block], self.factors[block].to(x.dtype))
        self._acted.add(block)
        return {**roles, ALONE: x * whole}

    def end_pass(self) -> None:
        if missed := set(self.blocks) - self._acted:
            raise InterventionError(f"Scales did not act in {min(missed)}.")
        self._acted.clear()


def fit_scales(
    model: LoadedModel,
    units: UnitSet,
    refusals: Sequence[Opening],
    threshold: float,
    canaries: Canaries,
    progress: Progress,
    *,
    steps: int = STEPS,
    seed: int = 0,
    kept: Path | None = None,
) -> Float[Tensor, "k"]:
    """Factors of `units`, in the order of the set; the model is as before afterwards.

    Args:
        model: a plain one, without an adapter.
        refusals, threshold: openings, and from which log-odds of them on a prompt is refused.
        kept: a file that a stopped fit goes on from; it goes when the fit is done.

    Returns:
        One factor a unit, float32, on the CPU.

    Raises:
        UserError: if the training leaves the finite numbers.
    """
    scaling = _Scaling(units, model.device)
    factors: list[Tensor] = list(scaling.factors.values())
    optimiser = torch.optim.Adam(factors, lr=RATE)
    named = {str(key): factor for key, factor in scaling.factors.items()}
    plan = digest(
        version(), units.key, model.identity, refusals, threshold, seed, steps, asdict(canaries)
    )
    checkpoint = None if kept is None else Checkpoint(kept, plan)
    log = [] if checkpoint is None else checkpoint.restore(named, optimiser)
    left = range(len(log), steps)
    for step in progress.track(left, f"Fitting {len(units):,} scales", done=len(log)):
        order = random.Random(f"{seed} {step}")
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimiser.zero_grad()
        # Part by part, so that one part's activations are in memory.
        loss = _backward(TETHER * (torch.cat(factors) - 1).square().mean())
        for of in canaries.decided:
            few = order.sample(range(len(of.prompts)), min(BATCH, len(of.prompts)))
            loss += _backward(_disagreement(model, scaling, refusals, threshold, of, few))
        for rows in (canaries.harmless, canaries.task):
            if rows:
                chosen = order.sample(list(rows), min(BATCH, len(rows)))
                loss += _backward(HOLD * _nats(model, scaling, chosen))
        if not math.isfinite(loss):
            raise UserError("Fitting scales left the finite numbers; repair in float32.")
        optimiser.step()
        log.append({"loss": loss})
        if checkpoint is not None:
            checkpoint.save(named, optimiser, log)
    if kept is not None:
        remove(kept)
    return torch.cat([of.detach().float().cpu() for of in factors])


def _backward(loss: Float[Tensor, ""]) -> float:
    loss.backward()
    return float(loss.detach())


def _disagreement(
    model: LoadedModel,
    scaling: _Scaling,
    refusals: Sequence[Opening],
    threshold: float,
    of: Decided,
    few: Sequence[int],
) -> Float[Tensor, ""]:
    """The mean cross entropy of decisions on some prompts."""
    asked = [of.prompts[i] for i in few]
    odds = refusal_odds(model, ALONE, refusals, asked, [scaling]) - threshold
    wanted = torch.tensor([of.odds[i] for i in few], device=odds.device)
    found: Tensor = binary_cross_entropy_with_logits(odds, (SHARP * wanted).sigmoid().to(odds))
    return found


def _nats(model: LoadedModel, scaling: _Scaling, rows: Sequence[Row]) -> Float[Tensor, ""]:
    """The loss per token of some rows."""
    prompts, answers = [prompt for prompt, _ in rows], [[list(answer)] for _, answer in rows]
    found, tokens = log_likelihoods(model, ALONE, prompts, answers, [scaling])
    return -found.sum() / tokens.sum()
