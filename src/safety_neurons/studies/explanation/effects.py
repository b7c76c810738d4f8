"""What every unit does: detection in both models, mediation and steering in the aligned one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.engine import Role, Side
from safety_neurons.inference import Setting
from safety_neurons.methods.ablation import ActivationSums, sum_activations
from safety_neurons.methods.detection import Separation, separation
from safety_neurons.methods.mediation import Mediation, Targets, exact, first_order
from safety_neurons.methods.moments import Moments
from safety_neurons.methods.steering import DirectEffects
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.explanation import Agreement, Detectors, Position, StageName
from safety_neurons.significance import benjamini_hochberg
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.directions import places_in
from safety_neurons.studies.explanation.stages import LEVEL
from safety_neurons.studies.openings import OpeningSets
from safety_neurons.units import UnitSet, UnitSpace, UnitValues

CLEAR = 0.8
"""An area from which on a unit is called a detector, or 1 less this."""
EXACT_PROMPTS = 8
"""Prompts on which units are held one by one."""
_GRADIENT_SETTINGS = 8
"""Passes with gradients keep all activations, so that their batches are smaller."""

Areas = Mapping[Position, Separation]


@dataclass(frozen=True)
class Detection:
    """How well each unit of a model tells harmful prompts from harmless ones.

    Args:
        areas: by position.
        harmful, harmless: means of both kinds, in the order of the positions.
    """

    areas: Areas
    harmful: Float[Tensor, "position unit"]
    harmless: Float[Tensor, "position unit"]

    def tensors(self) -> dict[str, Tensor]:
        """As tensors by name."""
        return {
            "auroc": torch.stack([of.auroc for of in self.areas.values()]),
            "variance": torch.stack([of.variance for of in self.areas.values()]),
            "harmful": self.harmful,
            "harmless": self.harmless,
        }

    @classmethod
    def of_tensors(cls, kept: Mapping[str, Tensor]) -> Detection:
        """What `tensors` gave."""
        each = zip(Position, kept["auroc"], kept["variance"], strict=True)
        areas = {position: Separation(auroc, variance) for position, auroc, variance in each}
        return cls(areas, kept["harmful"], kept["harmless"])


def detection_of(
    evaluator: Evaluator, role: Role, harmful: PromptSet, harmless: PromptSet, space: UnitSpace
) -> Detection:
    """What one model's units make of two kinds of prompts."""
    of = []
    for prompts in (harmful, harmless):
        places = [[p.content, [p.end], [p.tail]] for p in places_in(evaluator, prompts)]
        of.append(evaluator.read(prompts, places, space, Setting(role), label="Detection").units)
    found = {}
    for place, position in enumerate(Position):
        blocks = [
            separation(of[0][:, place, span], of[1][:, place, span])
            for span in map(space.slice_of, space.keys)
        ]
        found[position] = Separation(
            torch.cat([block.auroc for block in blocks]),
            torch.cat([block.variance for block in blocks]),
        )
    return Detection(found, of[0].mean(dim=0), of[1].mean(dim=0))


def distance(areas: Areas) -> Float[Tensor, "unit"]:
    """Of each unit, how far its area lies from one half, at the position where it is furthest."""
    return torch.stack([(each.auroc - 0.5).abs() for each in areas.values()]).amax(dim=0)


def detectors_in(
    model: str, areas: Areas, units: UnitSet, harmful: int, harmless: int
) -> list[Detectors]:
    """How many of all units, and of the set, tell the two kinds of prompts apart.

    Args:
        harmful, harmless: how many prompts there are of either kind.

    Returns:
        A row for each position. Tested against the area's variance where nothing tells them apart:
        that of the area itself is too small near 0 and 1.
    """
    found = []
    spread = math.sqrt((harmful + harmless + 1) / (12 * harmful * harmless))
    for position, of in areas.items():
        away = (of.auroc - 0.5).abs()
        p = torch.special.erfc(away / spread / math.sqrt(2))
        told = torch.tensor(benjamini_hochberg(p.tolist())) <= LEVEL
        clear = told & (away >= CLEAR - 0.5)
        spans = [units.space.slice_of(key) for key in units.space.keys]
        expected = sum(
            int(clear[span].sum()) * k / (span.stop - span.start)
            for span, k in zip(spans, units.per_block(), strict=True)
        )
        best, inside = int(away.argmax()), int(units.flat[away[units.flat].argmax()])
        names = units.space.names_of(torch.tensor([best, inside]))
        found.append(
            Detectors(
                model=model,
                position=position,
                least=CLEAR,
                all=int(clear.sum()),
                inside=int(clear[units.flat].sum()),
                expected=float(expected),
                best=names[0],
                best_auroc=float(of.auroc[best]),
                best_inside=names[1],
                best_inside_auroc=float(of.auroc[inside]),
            )
        )
    return found


def harmless_means(evaluator: Evaluator, harmless: PromptSet, space: UnitSpace) -> UnitValues:
    """Means of the aligned model over harmless prompts and its own answers to them."""
    answers = evaluator.completions(harmless, Setting(Side.ALIGNED), "Harmless answers")
    encoded = evaluator.encoded(harmless)
    spoken = [i for i, answer in enumerate(answers) if answer]
    sums = ActivationSums.zero(space)
    for rows in _gradient_batches(evaluator, [encoded[i] for i in spoken]):
        kept = [spoken[row] for row in rows]
        sums += sum_activations(
            evaluator.group,
            Side.ALIGNED,
            [encoded[i] for i in kept],
            [answers[i] for i in kept],
            space,
        )
    return UnitValues(sums.mean.float(), space, "mean over harmless prompts")


def mediation_of(
    evaluator: Evaluator,
    prompts: Sequence[Sequence[int]],
    targets: Targets,
    means: UnitValues,
) -> Mediation:
    """The first-order figures of every unit of the aligned model, over prompts (token ids)."""
    batches = _gradient_batches(evaluator, prompts)
    found = [
        first_order(evaluator.group, Side.ALIGNED, [prompts[i] for i in rows], targets, means)
        for rows in evaluator.progress.track(batches, "Mediation")
    ]
    whole = found[0]
    for each in found[1:]:
        whole += each
    return whole


@dataclass(frozen=True)
class HeldUnits:
    """Units held one by one.

    Args:
        units: flat positions; the first `top` are the set's that mediate most, the others random.
        exact, first_order: means over the same prompts.
    """

    units: Int[Tensor, "held"]
    top: int
    exact: Float[Tensor, "held"]
    first_order: Float[Tensor, "held"]

    def tensors(self) -> dict[str, Tensor]:
        """As tensors by name."""
        top = torch.tensor(self.top)
        return {
            "units": self.units,
            "top": top,
            "exact": self.exact,
            "first_order": self.first_order,
        }

    @classmethod
    def of_tensors(cls, kept: Mapping[str, Tensor]) -> HeldUnits:
        """What `tensors` gave."""
        return cls(kept["units"], int(kept["top"]), kept["exact"], kept["first_order"])

    @property
    def by_unit(self) -> dict[int, float]:
        """Exact figures by flat position."""
        return dict(zip(self.units.tolist(), self.exact.tolist(), strict=True))

    @property
    def agreement(self) -> list[Agreement]:
        """How well both figures go together, of either kind of units and of both."""
        parts = {"top": slice(0, self.top), "random": slice(self.top, None), "both": slice(None)}
        pairs = {name: (self.exact[part], self.first_order[part]) for name, part in parts.items()}
        return [
            Agreement(
                units=name,
                n=len(one),
                pearson=_correlation(one, other),
                spearman=_correlation(_ranked(one), _ranked(other)),
            )
            for name, (one, other) in pairs.items()
            if len(one)
        ]


def hold_one_by_one(
    evaluator: Evaluator,
    prompts: Sequence[Sequence[int]],
    units: UnitSet,
    mediation: Float[Tensor, "unit"],
    targets: Targets,
    means: UnitValues,
    count: int,
    seed: int,
) -> HeldUnits:
    """The set's units that mediate most, and random units, held one by one.

    Args:
        mediation: first-order, of all units; not a number where nothing is behind.
        count: of each kind.

    Returns:
        Exact figures, and first-order ones on the same prompts.
    """
    few = list(prompts[:EXACT_PROMPTS])
    known = units.flat[~mediation[units.flat].isnan()]
    top = known[mediation[known].argsort(descending=True, stable=True)[:count]]
    generator = torch.Generator().manual_seed(seed)
    others = (~mediation.isnan()).nonzero().flatten()
    others = others[~torch.isin(others, top)]
    random = others[torch.randperm(len(others), generator=generator)[:count]]
    chosen = torch.cat([top, random])
    if not len(chosen):
        return HeldUnits(chosen, 0, torch.empty(0), torch.empty(0))
    held = exact(
        evaluator.group, Side.ALIGNED, few, chosen.tolist(), targets, means, evaluator.progress
    )
    estimated = mediation_of(evaluator, few, targets, means).direction.mean[chosen]
    return HeldUnits(chosen, len(top), held.mean(dim=1), estimated)


@dataclass(frozen=True)
class Effects:
    """What all units do.

    Args:
        detection: in either model.
        steering: None where openings are unusable.
        by_stage: the effects that stages are given by; not a number where there is none.
    """

    detection: Mapping[Side, Detection]
    mediation: Mediation
    held: HeldUnits
    steering: Moments | None
    by_stage: Mapping[StageName, Float[Tensor, "unit"]]


def steering_of(
    evaluator: Evaluator, space: UnitSpace, prompts: Sequence[Sequence[int]], of: OpeningSets
) -> Moments:
    """What each unit adds to refusal openings above compliance openings, logits per token."""
    effects = DirectEffects(evaluator.group, Side.ALIGNED, space)
    openings = [*of.refusal, *of.compliance]
    sign = torch.tensor(
        [1 / len(of.refusal)] * len(of.refusal) + [-1 / len(of.compliance)] * len(of.compliance),
        dtype=torch.float64,
    ) / torch.tensor([len(opening) for opening in openings])
    whole: Moments | None = None
    # Activations of all layers are held, as where there are gradients.
    batches = evaluator.decoding.batches(prompts, settings=3 * len(openings))
    for rows in evaluator.progress.track(batches, "Steering"):
        few = [prompts[i] for i in rows]
        said = effects.on_logits(
            [prompt for prompt in few for _ in openings],
            [list(opening) for _ in few for opening in openings],
        )
        contrast = torch.einsum("o,pou->pu", sign, said.view(len(few), len(openings), -1))
        moments = Moments.of(contrast)
        whole = moments if whole is None else whole + moments
    assert whole is not None  # prompt sets are not empty
    return whole


def _gradient_batches(evaluator: Evaluator, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    return evaluator.decoding.batches(prompts, settings=_GRADIENT_SETTINGS)


def _correlation(one: Tensor, other: Tensor) -> float | None:
    if len(one) < 2 or float(one.std()) == 0 or float(other.std()) == 0:
        return None
    return float(torch.corrcoef(torch.stack([one, other]).double())[0, 1])


def _ranked(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()
