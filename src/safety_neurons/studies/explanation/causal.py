"""The causal test: stages knocked out and patched in, and what is then seen behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Side
from safety_neurons.inference import Setting
from safety_neurons.inference.reading import Place, Read
from safety_neurons.interventions import Ablate, Intervention, Patch
from safety_neurons.methods.detection import LEAST, separation
from safety_neurons.methods.direction import Directions
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.explanation import (
    Area,
    CausalRow,
    Downstream,
    Figure,
    Flow,
    StageName,
)
from safety_neurons.runs.fragility import RefusalRate
from safety_neurons.significance import mcnemar
from safety_neurons.statistics import mean_interval, mean_or_none, ratio_of_means
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.directions import places_in
from safety_neurons.studies.keeping import Keeping
from safety_neurons.units import SiteKind, UnitSet, UnitSpace, UnitValues

_END, _DIRECTION = 0, 1
"""The places that are read: the end of the user's text, and that of the refusal direction."""
SET = "set"
"""The whole set, stages or none."""
Change = Literal["none", "ablate", "patch"]


@dataclass(frozen=True)
class Watched:
    """What is looked at behind every intervention.

    Args:
        role: whose own directions these are.
        layer, position: of the refusal direction.
        end: directions of every layer at the end of the user's text, by role.
        way: the aligned model's directions at `position`.
        first: tokens that begin refusals alone.
        means: harmless means that units are held at.
        harmless, difference: of each unit at `position`, its mean over harmless prompts, and by
            how much its mean over harmful ones is larger.
    """

    layer: int
    position: int
    end: Mapping[Side, Directions]
    way: Directions
    first: Sequence[int]
    means: UnitValues
    harmless: Float[Tensor, "unit"]
    difference: Float[Tensor, "unit"]


@dataclass(frozen=True)
class Seen:
    """What was seen of test prompts under one setting.

    Args:
        units: the explained set's activations at the direction's position, of harmful prompts, in
            the order of their positions.
        way: how far along the refusal direction, by kind of prompt.
        detected: how far along the later layers' directions at the end of the user's text.
        first: probability of a refusal's first token, of harmful prompts.
    """

    units: Float[Tensor, "prompt k"]
    way: tuple[Float[Tensor, "prompt"], Float[Tensor, "other_prompt"]]
    detected: tuple[Float[Tensor, "prompt"], Float[Tensor, "other_prompt"]]
    first: Float[Tensor, "prompt"] | None

    def tensors(self) -> dict[str, Tensor]:
        """As tensors by name."""
        of = {"units": self.units, "first": self.first}
        for name, pair in (("way", self.way), ("detected", self.detected)):
            of |= {f"{name}-harmful": pair[0], f"{name}-harmless": pair[1]}
        return {name: tensor for name, tensor in of.items() if tensor is not None}

    @classmethod
    def of_tensors(cls, kept: Mapping[str, Tensor]) -> Seen:
        """What `tensors` gave."""
        way, detected = (
            (kept[f"{name}-harmful"], kept[f"{name}-harmless"]) for name in ("way", "detected")
        )
        return cls(kept["units"], way, detected, kept.get("first"))


@dataclass(frozen=True)
class Arm:
    """One intervention on one set of units, with the random sets beside it."""

    change: Change
    stage: str
    role: Side
    units: UnitSet
    random: tuple[UnitSet, ...] = ()


class CausalTest:
    """Settings on the same test prompts, each looked at once.

    Args:
        units: the set that is explained.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        harmful: PromptSet,
        harmless: PromptSet,
        units: UnitSet,
        watched: Watched,
        kept: Keeping,
        seed: int,
    ) -> None:
        self._evaluator, self._harmful, self._harmless = evaluator, harmful, harmless
        self.units, self._watched, self._kept, self._seed = units, watched, kept, seed
        streams = evaluator.group.space(SiteKind.RESIDUAL)
        # A direction of the stream that enters layer l is made by the layers below it.
        later = [block for block in streams.blocks if block.key.layer >= watched.layer]
        held = [block for block in units.space.blocks if len(units.in_block(block.key))]
        self._later = UnitSpace(tuple(later))
        self._space = UnitSpace((*held, *later))
        self._held = UnitSpace(tuple(held))
        self._places: dict[str, list[list[Place]]] = {}
        self._seen: dict[str, Seen] = {}

    def setting(self, change: Change, role: Side, units: UnitSet) -> Setting:
        """Who answers, with units held at harmless means or patched."""
        if change == "none":
            return Setting(role)
        act: Intervention
        act = Ablate(units, self._watched.means) if change == "ablate" else Patch(units)
        return Setting(role, (act,))

    def rows(self, arms: Sequence[Arm]) -> list[CausalRow]:
        """A row for each arm, in their order."""
        settings = [
            self.setting(arm.change, arm.role, units)
            for arm in arms
            for units in (arm.units, *arm.random)
        ]
        self._evaluator.prepare(self._harmful, settings, "Answers under interventions")
        return [self._row(arm) for arm in arms]

    def seen(self, setting: Setting) -> Seen:
        """What is seen of test prompts under a setting."""
        if setting.key not in self._seen:
            name = f"seen-{setting.key}"
            self._seen[setting.key] = self._kept.value(Seen, name, self._look, setting)
        return self._seen[setting.key]

    def activity(self, seen: Seen, units: UnitSet) -> Float[Tensor, "prompt"]:
        """How harmful prompts look to some of the set's units: 0 as harmless ones, 1 as usual."""
        weights = self._watched.difference[units.flat].double()
        place = torch.searchsorted(self.units.flat, units.flat)
        away = seen.units[:, place].double() - self._watched.harmless[units.flat].double()
        size = weights.square().sum()
        # Units that nothing sets apart are as active on all prompts.
        return (away @ weights) / size if float(size) > 0 else torch.zeros(len(away)).double()

    def flow(
        self,
        source: tuple[StageName, UnitSet],
        target: tuple[StageName, UnitSet],
        random: Sequence[UnitSet],
    ) -> Flow | None:
        """How much of the target's activity rests on the source; None without units to see."""
        behind = self.behind(source[1], target[1])
        if not len(behind) or not len(source[1]):
            return None
        whole = self.activity(self.seen(Setting(Side.ALIGNED)), behind)

        def lost(units: UnitSet) -> tuple[list[float], list[float]]:
            held = self.seen(self.setting("ablate", Side.ALIGNED, units))
            return (whole - self.activity(held, behind)).tolist(), whole.tolist()

        effect = ratio_of_means(*lost(source[1]), seed=self._seed)
        if effect.value is None:
            return None
        drawn = [ratio_of_means(*lost(units), seed=self._seed).value for units in random]
        return Flow(
            source=source[0],
            target=target[0],
            k_source=len(source[1]),
            k_target=len(behind),
            lost=effect.value,
            ci_low=effect.ci_low,
            ci_high=effect.ci_high,
            random=mean_or_none(drawn) if drawn else None,
        )

    def behind(self, source: UnitSet, target: UnitSet) -> UnitSet:
        """The target's units that are not the source's, in layers behind the source's first."""
        if not len(source):
            return UnitSet.none(target.space)
        first = int(source.space.layers_of(source.flat).min())
        layers = target.space.layers_of(target.flat)
        return UnitSet.of(target.flat[layers > first], target.space) - source

    def _look(self, setting: Setting) -> Seen:
        watched, end = self._watched, self._watched.end[Side(setting.recipient)]
        harmful, harmless = (
            self._evaluator.read(
                prompts,
                self._places_in(prompts),
                self._space,
                setting,
                first=watched.first,
                label="Behind interventions",
            )
            for prompts in (self._harmful, self._harmless)
        )
        mine = [
            harmful.units[:, _DIRECTION, self._space.slice_of(block.key)][
                :, self.units.in_block(block.key)
            ]
            for block in self._held.blocks
        ]

        def along(read: Read) -> Float[Tensor, "prompt"]:
            return self._way(read, _DIRECTION, watched.way)[:, 0]

        def told(read: Read) -> Float[Tensor, "prompt"]:
            return self._way(read, _END, end).mean(dim=1)

        return Seen(
            torch.cat(mine, dim=1),
            (along(harmful), along(harmless)),
            (told(harmful), told(harmless)),
            harmful.first,
        )

    def _way(
        self, read: Read, place: int, directions: Directions
    ) -> Float[Tensor, "prompt later_layer"]:
        streams = torch.stack(
            [read.units[:, place, self._space.slice_of(block.key)] for block in self._later.blocks],
            dim=1,
        )
        layers = [block.key.layer for block in self._later.blocks]
        return Directions(directions.difference[layers], directions.origin[layers]).way(streams)

    def _places_in(self, prompts: PromptSet) -> list[list[Place]]:
        if prompts.digest not in self._places:
            self._places[prompts.digest] = [
                [[places.end], [self._watched.position]]
                for places in places_in(self._evaluator, prompts)
            ]
        return self._places[prompts.digest]

    def _row(self, arm: Arm) -> CausalRow:
        setting = self.setting(arm.change, arm.role, arm.units)
        seen = self.seen(setting)
        drawn = [
            self._downstream(self.setting(arm.change, arm.role, units)) for units in arm.random
        ]
        return CausalRow(
            intervention=arm.change,
            stage=arm.stage,
            recipient=str(arm.role),
            k=len(arm.units),
            n=len(self._harmful),
            detection=area(*seen.detected),
            direction=figure(seen.way[0], self._seed),
            first_token=None if seen.first is None else figure(seen.first, self._seed),
            refusal_rate=self.refusals(setting),
            random=_mean(drawn) if drawn else None,
            random_sets=len(drawn),
            p=self._p(setting, arm),
        )

    def _p(self, setting: Setting, arm: Arm) -> float | None:
        """The largest p of refusals beside those under each of an arm's random sets."""
        own = self._evaluator.judged(self._harmful, setting, "Answers").refusals
        found = [
            mcnemar(own, self._evaluator.judged(self._harmful, beside, "Answers").refusals)
            for beside in (self.setting(arm.change, arm.role, units) for units in arm.random)
        ]
        return max(found, default=None)

    def refusals(self, setting: Setting) -> RefusalRate:
        """Of harmful prompts under a setting."""
        judged = self._evaluator.judged(self._harmful, setting, "Answers")
        return RefusalRate.of(judged.refusal_rate)

    def _downstream(self, setting: Setting) -> Downstream:
        seen, detected = self.seen(setting), None
        if (found := area(*seen.detected)) is not None:
            detected = found.auroc
        return Downstream(
            detection=detected,
            direction=float(seen.way[0].mean()),
            first_token=None if seen.first is None else float(seen.first.mean()),
            refusal_rate=self.refusals(setting).refusal_rate,
        )


def area(first: Float[Tensor, "prompt"], second: Float[Tensor, "other_prompt"]) -> Area | None:
    """The area under the ROC curve of one figure; None with too few prompts."""
    if min(len(first), len(second)) < LEAST:
        return None
    found = separation(first[:, None], second[:, None])
    low, high = found.interval
    return Area(auroc=float(found.auroc), ci_low=float(low), ci_high=float(high))


def figure(values: Float[Tensor, "prompt"], seed: int) -> Figure:
    """A mean over prompts, with its interval."""
    interval = mean_interval(values.tolist(), seed=seed)
    return Figure(
        value=float(values.double().mean()),
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
    )


def _mean(drawn: Iterable[Downstream]) -> Downstream:
    rows = list(drawn)
    return Downstream(
        **{
            name: mean_or_none([getattr(row, name) for row in rows])
            for name in Downstream.model_fields
        }
    )
