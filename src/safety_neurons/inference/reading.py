"""Prompts read, not answered: activations at chosen places, under a setting."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Activations, ModelGroup, PairedRows, Role, SiteEdit, Tokens
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference.answers import Decoding
from safety_neurons.inference.decoding import edits_of, left_padded, shared_beginning
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
    """Keeps means over places of the recipient's activations, in the passes in which it is on."""

    def __init__(self, role: Role, space: UnitSpace) -> None:
        self.blocks: Collection[BlockKey] = space.keys
        self.weights: Float[Tensor, "row place pos"] | None = None
        self.units = torch.empty(0)
        self._role, self._space = role, space
        self._seen: set[BlockKey] = set()

    def turn_on(self, weights: Float[Tensor, "row place pos"]) -> None:
        """Keep what the next pass computes."""
        self.weights = weights
        self.units = torch.empty(*weights.shape[:2], self._space.total)

    def __call__(self, block: BlockKey, roles: Activations) -> None:
        if (x := roles.get(self._role)) is None:
            return
        self._seen.add(block)
        if self.weights is not None:
            means = torch.einsum("bpq,bqu->bpu", self.weights.to(x.dtype), x)
            self.units[:, :, self._space.slice_of(block)] = means.to(self.units)

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
    units = torch.empty(len(prompts), len(places[0]), space.total)
    chances = torch.empty(len(prompts)) if first else None
    tokens_of = torch.tensor(sorted(first), dtype=torch.long, device=group.device)
    for rows in (progress or Silent()).track(decoding.batches(prompts, settings=4), label):
        tap = _PlacesTap(setting.recipient, space)
        logits = _read(
            group,
            [prompts[i] for i in rows],
            [places[i] for i in rows],
            setting,
            tap,
            logits=bool(first),
        )
        units[rows] = tap.units
        if chances is not None and logits is not None:
            known = logits[:, -1, : group.vocabulary].float().softmax(dim=-1)
            chances[rows] = known[:, tokens_of].sum(dim=-1).cpu()
    if not bool(torch.isfinite(units).all()):
        raise UserError("Some activations are no finite numbers; run the model in float32.")
    return Read(units, chances)


def _read(
    group: ModelGroup,
    prompts: Sequence[Sequence[int]],
    places: Sequence[Sequence[Place]],
    setting: Setting,
    tap: _PlacesTap,
    *,
    logits: bool,
) -> Float[Tensor, "row 1 vocab"] | None:
    """One batch; what all its prompts begin with is read once, up to the first place."""
    role, donor = setting.recipient, setting.donor
    from_end = [
        [[p if p < 0 else p - len(prompt) for p in place] for place in of]
        for prompt, of in zip(prompts, places, strict=True)
    ]
    least = min(
        len(prompt) + p
        for prompt, of in zip(prompts, from_end, strict=True)
        for place in of
        for p in place
    )
    shared = min(len(shared_beginning(group, prompts, 0)), least)
    rest = left_padded([prompt[shared:] for prompt in prompts], group)
    mask = torch.cat([rest.mask.new_ones(len(prompts), shared), rest.mask], dim=1)
    width = rest.ids.shape[1]
    weights = torch.zeros(len(prompts), len(places[0]), width, device=group.device)
    for row, of in enumerate(from_end):
        for place, positions in enumerate(of):
            weights[row, place, [width + p for p in positions]] = 1 / len(positions)
    roles = [role] if donor is None else [role, donor]
    counts: dict[Role, int] = dict.fromkeys(roles, 1 if shared else len(prompts))
    edits: list[SiteEdit] = [*edits_of([setting], role, group.device), tap]
    with PairedRows(group, counts, edits=edits, first=donor, cached=shared > 0) as running:
        if shared:
            ids = torch.tensor([list(prompts[0][:shared])], device=group.device)
            once = Tokens(ids, torch.ones_like(ids))
            running.forward(dict.fromkeys(roles, once), logits=None)
            running.rearrange(dict.fromkeys(roles, torch.zeros(len(prompts), dtype=torch.long)))
        tap.turn_on(weights)
        tokens = dict.fromkeys(roles, Tokens(rest.ids, mask))
        given = running.forward(tokens, logits=1 if logits else None, of=role)
    return given.get(role)
