"""Attribution of the aligned model's answers to units, along the way from one model to the other.

A gradient at one point says little of a change as large as a patch. So the recipient is moved to
the donor step by step, and the gradients on the way are averaged (integrated gradients,
Sundararajan et al. 2017; for patches Hanna et al. 2024):

1. The donor, the aligned model, reads prompt + its own completion; its activations are kept.
2. The recipient reads the same with units moved by a strength s: own + s × (donor − own), at
   every position, for each s of the midpoints of [0, 1].
3. At each s, for every unit of the space, moved or not: the sum over all positions that are read of
   (donor − own) × ∂ L / ∂ activation, averaged over the midpoints.

L is the log-likelihood of the completion's tokens, the first tokens weighted most: DECAY to the
power of a token's place. Whether a model refuses is decided in its first tokens; from place HORIZON
on, where a weight is below 3 %, they are not read.

Which units are moved decides what a unit's step is worth beside them. In the first round all are,
as if the whole model were replaced; but a small set acts in a model that stays as it is elsewhere.
In each further round (CONTEXTS) the leading units so far move alone, and all units are scored
beside them. Rounds are averaged, each round's attribution divided by what its LEADING share of
units has together.

A set that makes a model refuse makes it refuse harmless prompts, too. So in two more rounds
(HARMLESS_CONTEXTS) the leading units move on harmless prompts, with the aligned model's own answers
to these: what units do to their likelihood is added, weighted by HARMLESS_WEIGHT, and units that
would have them refused fall behind. These move all the way, as they do under a patch: before that,
few harmless prompts are refused, and gradients are of other things.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Activations, PairedRows, Side, Tokens
from safety_neurons.errors import InterventionError
from safety_neurons.inference.decoding import shared_beginning
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.methods.attribution import AttributionSums, OfAlignedAnswers
from safety_neurons.models import ModelPair
from safety_neurons.units import BlockKey, Ranking, UnitSet, UnitSpace, units_in

DECAY = 0.8
"""Weight of a completion's token beside the one before it."""
HORIZON = 16
"""How many tokens of a completion are read."""
CONTEXTS = (0.02, 0.005, 0.002)
"""Shares of the leading units that are moved alone, one a round."""
HARMLESS_CONTEXTS = (0.005, 0.002)
"""The same on harmless prompts."""
HARMLESS_WEIGHT = 0.5
"""What harmless answers count for beside harmful prompts' ones."""
LEADING = 0.02
"""The share of units whose attribution a round's scores are told in."""


def midpoints(steps: int) -> tuple[float, ...]:
    """The middles of `steps` equal parts of [0, 1]."""
    return tuple((2 * step + 1) / (2 * steps) for step in range(steps))


class _Kept:
    """Keeps the donor's activations, pass by pass."""

    def __init__(self, blocks: Collection[BlockKey]) -> None:
        self.blocks = blocks
        self.passes: list[dict[BlockKey, Tensor]] = [{}]

    def __call__(self, block: BlockKey, sides: Activations) -> None:
        (self.passes[-1][block],) = sides.values()

    def end_pass(self) -> None:
        _require_all(self.passes[-1], self.blocks)
        self.passes.append({})


class _Moved:
    """Moves units of the recipient part of the way to the donor, and keeps all for gradients.

    Args:
        donated: the donor's activations, pass by pass.
        strength: how far of the way.
        moving: 1 for each unit that is moved and 0 for the others, by block.
    """

    def __init__(
        self,
        donated: Sequence[dict[BlockKey, Tensor]],
        strength: float,
        moving: dict[BlockKey, Tensor],
    ) -> None:
        self.blocks = moving.keys()
        self._donated, self._strength, self._moving = donated, strength, moving
        self.passes: list[dict[BlockKey, tuple[Tensor, Tensor]]] = [{}]

    def __call__(self, block: BlockKey, sides: Activations) -> Activations:
        ((side, own),) = sides.items()
        way = self._donated[len(self.passes) - 1][block] - own
        moved = own + self._strength * self._moving[block].to(own.dtype) * way
        if not moved.requires_grad:
            moved.requires_grad_()
        self.passes[-1][block] = moved, way.detach()
        return {side: moved}

    def end_pass(self) -> None:
        _require_all(self.passes[-1], self.blocks)
        self.passes.append({})


def _require_all(seen: Collection[BlockKey], planned: Collection[BlockKey]) -> None:
    if missed := set(planned) - set(seen):
        raise InterventionError(f"Nothing was seen of {', '.join(map(str, sorted(missed)[:5]))}.")


@dataclass(frozen=True)
class _Given:
    """Prompts and the beginnings of their completions, the common beginning apart."""

    shared: list[int]
    batch: ForcedBatch

    @classmethod
    def of(
        cls,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
    ) -> _Given:
        shared = shared_beginning(pair, prompts, HORIZON)
        batch = ForcedBatch.of(
            [prompt[len(shared) :] for prompt in prompts],
            [completion[:HORIZON] for completion in completions],
            pair,
        )
        return cls(shared, batch)

    def read(
        self, pair: ModelPair, side: Side, edit: _Kept | _Moved, *, logits: bool
    ) -> Tensor | None:
        """Let one model read it: the common beginning once, in a pass of its own."""
        n, device = len(self.batch), pair.device
        before = torch.ones(n, len(self.shared), dtype=torch.long, device=device)
        rest = self.batch.tokens
        wanted = self.batch.targets.shape[1] if logits else None
        start = 1 if self.shared else n
        with PairedRows(pair, {side: start}, edits=[edit], cached=True) as rows:
            if self.shared:
                ids = torch.tensor([self.shared], device=device)
                rows.forward({side: Tokens(ids, before[:1])}, logits=None)
                rows.rearrange({side: torch.zeros(n, dtype=torch.long)})
            tokens = Tokens(rest.ids, torch.cat([before, rest.mask], dim=1))
            return rows.forward({side: tokens}, logits=wanted).get(side)


def attribute_along(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    aligned_completions: Sequence[Sequence[int]],
    moved: UnitSet,
    strengths: Sequence[float],
) -> AttributionSums:
    """The sums of one batch, with the units of `moved` moved together by each of `strengths`.

    Args:
        prompts, aligned_completions: token ids; of completions the first HORIZON are read.
        moved: of the space whose units, all of them, are scored.

    Returns:
        Sums over this batch's prompts, averaged over `strengths`.

    Raises:
        InterventionError: if a block was not reached, or its activations move nothing.
    """
    space = moved.space
    given = _Given.of(pair, prompts, aligned_completions)
    kept = _Kept(space.keys)
    with torch.no_grad():
        given.read(pair, Side.ALIGNED, kept, logits=False)
    inside = torch.zeros(space.total, device=pair.device)
    inside[moved.flat] = 1
    moving = {block: inside[space.slice_of(block)] for block in space.keys}
    sums = AttributionSums.zero(space)
    sums.prompts = len(prompts)
    for strength in strengths:
        edit = _Moved(kept.passes, strength, moving)
        with torch.enable_grad():
            logits = given.read(pair, Side.UNALIGNED, edit, logits=True)
            assert logits is not None
            likelihood = first_weighted(given.batch, logits).sum()
            for block, attribution in _attributions(given.batch, likelihood, edit):
                sums.attribution[space.slice_of(block)] += attribution / len(strengths)
    return sums


def first_weighted(
    batch: ForcedBatch, logits: Float[Tensor, "batch completion_pos vocab"]
) -> Float[Tensor, "batch"]:
    """The mean log-likelihood per token, in nats, the first tokens weighted most."""
    likelihoods = batch.log_likelihoods(logits)
    places = torch.arange(likelihoods.shape[1], device=logits.device, dtype=likelihoods.dtype)
    weights = DECAY**places * batch.scored
    return (likelihoods * weights).sum(dim=1) / weights.sum(dim=1)


def _attributions(
    batch: ForcedBatch, likelihood: Float[Tensor, ""], edit: _Moved
) -> list[tuple[BlockKey, Float[Tensor, "unit"]]]:
    passes = edit.passes[:-1]
    places = [(i, block) for i in range(len(passes)) for block in edit.blocks]
    gradients = torch.autograd.grad(
        likelihood, [passes[i][block][0] for i, block in places], allow_unused=True
    )
    found = []
    for (i, block), gradient in zip(places, gradients, strict=True):
        last = i == len(passes) - 1
        if gradient is None:
            # Nothing reads the common beginning behind the last layer's attention.
            if last:
                raise InterventionError(f"{block} has no influence on the completions.")
            continue
        attribution = passes[i][block][1].double() * gradient.double()
        if last:  # the common beginning has no padding
            attribution = attribution * batch.read_positions[..., None]
        found.append((block, attribution.sum(dim=(0, 1)).cpu()))
    return found


@dataclass(frozen=True)
class _Round(OfAlignedAnswers):
    """One reading of all prompts, a `RankingMethod` of its own.

    Args:
        moved: the units that move together; None for all.
        on_harmless: whether it reads the harmless prompts.
    """

    number: int
    strengths: tuple[float, ...]
    moved: UnitSet | None = None
    on_harmless: bool = False

    batch_share = 0.5

    @property
    def version(self) -> str:
        context = self.moved.key if self.moved is not None else "all"
        prompts = "harmless" if self.on_harmless else "harmful"
        strengths = ",".join(f"{strength:g}" for strength in self.strengths)
        return f"{PathAttribution.version}/{strengths}/{context}/{prompts}"

    @property
    def label(self) -> str:
        return f"Attributing answers along the path ({self.number + 1}/{len(_ROUNDS)})"

    def measure(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        space: UnitSpace,
    ) -> AttributionSums:
        moved = self.moved if self.moved is not None else UnitSet.all(space)
        return attribute_along(pair, prompts, completions, moved, self.strengths)


class PathAttribution:
    """Ranks by attribution along the path, in rounds."""

    version = "path-attribution-2"
    reads_harmless = True

    def completions_of(self, contrasted: Side) -> Side:
        return Side.ALIGNED

    def round_after(self, space: UnitSpace, sums: Sequence[AttributionSums]) -> _Round | None:
        """All units move first; then the leading ones of the harmful rounds so far."""
        number = len(sums)
        if number == len(_ROUNDS):
            return None
        share, strengths, on_harmless = _ROUNDS[number]
        if share is None:
            return _Round(number, strengths)
        so_far = _together(sums[: 1 + len(CONTEXTS)])
        leading = Ranking("so far", so_far, space).order[: max(units_in(share, space), 1)]
        return _Round(number, strengths, UnitSet.of(leading, space), on_harmless)

    def scores(self, sums: Sequence[AttributionSums]) -> Float[Tensor, "unit"]:
        """The mean over harmful rounds, and what the units do to harmless answers."""
        harmful, harmless = sums[: 1 + len(CONTEXTS)], sums[1 + len(CONTEXTS) :]
        kept = torch.stack([of.score for of in harmless]).mean(dim=0)
        return _together(harmful) + HARMLESS_WEIGHT * kept / _led(harmful[_MIDDLE])


_ROUNDS: tuple[tuple[float | None, tuple[float, ...], bool], ...] = (
    (None, midpoints(4), False),
    *((share, midpoints(2), False) for share in CONTEXTS),
    *((share, (1.0,), True) for share in HARMLESS_CONTEXTS),
)
"""Of each round: the share that moves (None for all), how far, whether on harmless prompts."""

_MIDDLE = 1 + CONTEXTS.index(HARMLESS_CONTEXTS[0])
"""The harmful round in whose parts harmless answers are told: where the same share moves."""


def _together(sums: Sequence[AttributionSums]) -> Float[Tensor, "unit"]:
    return torch.stack([of.score / _led(of) for of in sums]).mean(dim=0)


def _led(sums: AttributionSums) -> float:
    """What the LEADING share of units has together, in nats; 1 where that is nothing."""
    leading = max(round(LEADING * len(sums.attribution)), 1)
    return float(sums.score.clamp(min=0).topk(leading).values.sum()) or 1.0


PATH_ATTRIBUTION = PathAttribution()
