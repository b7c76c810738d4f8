"""Prompts read, not answered: activations at chosen places, under a setting."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Activations, ModelGroup, PairedRows, Role
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference.answers import Decoding
from safety_neurons.inference.decoding import edits_of, left_padded
from safety_neurons.inference.settings import Setting
from safety_neurons.interventions import require_units
from safety_neurons.progress import Progress, Silent
from safety_neurons.units import BlockKey, UnitSpace

Place = Sequence[int]
"""Positions in a prompt's tokens whose mean is taken; negative ones count from the end."""


@dataclass(frozen=True)
class Read:
    """What one model computes on prompts.

    Args:
        units: at each place, float32, on the CPU.
        first: the probability that the answer's first token is one of some; None where not asked.
    """

    units: Float[Tensor, "prompt place unit"]
    first: Float[Tensor, "prompt"] | None


class _PlacesTap:
    """Keeps means over places of the recipient's activations."""

    def __init__(
        self,
        role: Role,
        space: UnitSpace,
        weights: Float[Tensor, "row place pos"],
        units: Float[Tensor, "row place unit"],
    ) -> None:
        self.blocks: Collection[BlockKey] = space.keys
        self._role, self._space, self._weights, self._units = role, space, weights, units
        self._seen: set[BlockKey] = set()

    def __call__(self, block: BlockKey, roles: Activations) -> None:
        if (x := roles.get(self._role)) is None:
            return
        self._units[:, :, self._space.slice_of(block)] = torch.einsum(
            "bpq,bqu->bpu", self._weights.to(x.dtype), x
        ).to(self._units)
        self._seen.add(block)

    def end_pass(self) -> None:
        if missed := set(self.blocks) - self._seen:
            raise InterventionError(f"Nothing was seen of {min(missed)}.")
        self._seen.clear()


@torch.no_grad()
def read_at(
    group: ModelGroup,
    prompts: Sequence[Sequence[int]],
    places: Sequence[Sequence[Place]],
    space: UnitSpace,
    setting: Setting,
    decoding: Decoding,
    *,
    first: Collection[int] = (),
    progress: Progress | None = None,
    label: str = "Reading",
) -> Read:
    """What a model computes on prompts (token ids) at places, perhaps under interventions.

    Args:
        places: of each prompt, as many.
        space: which units; interventions have acted on what is read of them.
        first: token ids, whose probability to come first in the answer is summed.

    Returns:
        Units and probabilities, in the order of `prompts`.

    Raises:
        UserError: if an intervention is at other models' units, or activations are no finite
            numbers.
    """
    require_units(setting.interventions, group.space)
    role, donor = setting.recipient, setting.donor
    units = torch.empty(len(prompts), len(places[0]), space.total)
    chances = torch.empty(len(prompts)) if first else None
    tokens_of = torch.tensor(sorted(first), dtype=torch.long, device=group.device)
    for rows in (progress or Silent()).track(decoding.batches(prompts, settings=4), label):
        batch = left_padded([prompts[i] for i in rows], group)
        width = batch.ids.shape[1]
        weights = torch.zeros(len(rows), len(places[0]), width, device=group.device)
        for row, i in enumerate(rows):
            for place, positions in enumerate(places[i]):
                from_end = [p if p < 0 else p - len(prompts[i]) for p in positions]
                weights[row, place, [width + p for p in from_end]] = 1 / len(positions)
        taken = torch.empty(len(rows), len(places[0]), space.total)
        tap = _PlacesTap(role, space, weights, taken)
        edits = edits_of([setting], role, group.device)
        counts: dict[Role, int] = {role: len(rows)}
        if donor is not None:
            counts[donor] = len(rows)
        with PairedRows(group, counts, edits=[*edits, tap], first=donor) as running:
            logits = running.forward(
                dict.fromkeys(counts, batch), logits=1 if first else None, of=role
            )
        units[rows] = taken
        if chances is not None:
            known = logits[role][:, -1, : group.vocabulary].float().softmax(dim=-1)
            chances[rows] = known[:, tokens_of].sum(dim=-1).cpu()
    if not bool(torch.isfinite(units).all()):
        raise UserError("Some activations are no finite numbers; run the model in float32.")
    return Read(units, chances)
