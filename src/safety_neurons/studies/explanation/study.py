"""The study of one set: what its units do, which stages they have, and the causal test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting
from safety_neurons.methods.mediation import Mediation, Targets
from safety_neurons.methods.moments import Moments
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.explanation import (
    CausalRow,
    ExplanationCard,
    Flow,
    Openings,
    StageFigures,
    StageName,
)
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation import effects as measured
from safety_neurons.studies.explanation.causal import SET, Arm, CausalTest, Watched
from safety_neurons.studies.explanation.crosswalk import direction_figures
from safety_neurons.studies.explanation.directions import (
    Chosen,
    choose_direction,
    directions_at_end,
    places_in,
)
from safety_neurons.studies.explanation.options import ExplainOptions, ExplanationPrompts
from safety_neurons.studies.explanation.relays import own_activity, parts_of, sets_of
from safety_neurons.studies.explanation.rows import Standing, unit_rows
from safety_neurons.studies.explanation.stages import nulls_of, stages_of
from safety_neurons.studies.explanation.verdict import RULES, judged
from safety_neurons.studies.keeping import Keeping
from safety_neurons.studies.openings import (
    USABLE,
    Answered,
    OpeningSets,
    told_apart,
)
from safety_neurons.units import Ranking, UnitSet

LINKS = (
    (StageName.DETECTION, StageName.MEDIATION),
    (StageName.DETECTION, StageName.STEERING),
    (StageName.MEDIATION, StageName.STEERING),
)


@dataclass(frozen=True)
class Study:
    """One set of units of the aligned model.

    Args:
        ranking: that the set is the beginning of.
        kept: what was measured before a stop.
    """

    evaluator: Evaluator
    units: UnitSet
    ranking: Ranking
    prompts: ExplanationPrompts
    options: ExplainOptions
    kept: Keeping

    def card(self, share: float) -> tuple[ExplanationCard, Chosen]:
        """What is found, and the refusal direction.

        Raises:
            UserError: if the set is empty, or the aligned model refuses none of the prompts.
        """  # noqa: DOC201
        if not len(self.units):
            raise UserError(f"A share of {share:g} is no neuron at all; give a larger one.")
        space, prompts = self.units.space, self.prompts
        openings, kinds = self._openings()
        behind = min(p.behind for p in places_in(self.evaluator, prompts.found))
        direction = self.kept.value(
            Chosen,
            "direction",
            choose_direction,
            self.evaluator,
            Side.ALIGNED,
            (prompts.found, prompts.found_harmless),
            (prompts.select, prompts.found_harmless),
            behind,
        )
        watched = self._watched(direction, kinds)
        found = self._effects(direction, watched, kinds if openings.usable else None)
        p, stages = stages_of(found.by_stage, self.units)
        test = CausalTest(
            self.evaluator,
            prompts.test,
            prompts.harmless,
            self.units,
            watched,
            self.kept,
            self.options.seed,
        )
        own = self.kept.tensors(
            "own",
            lambda: {
                "own": own_activity(
                    self.evaluator,
                    prompts.test,
                    self.units,
                    watched.means,
                    found.detection[Side.ALIGNED],
                )
            },
        )["own"]
        parts = parts_of(stages, own)
        sets = sets_of(parts, self.units)
        random = {
            units.key: self._random(units) for units in [*sets.values(), self.units] if len(units)
        }
        causal = self._causal(test, sets, random)
        flow = self._flow(test, sets, random)
        figures = {stage: _figures(units) for stage, units in sets.items()}
        having = {
            stage: _figures(UnitSet.of(self.units.flat[[stage in of for of in stages]], space))
            for stage in StageName
        }
        verdict, reasons = judged(
            figures,
            flow,
            causal,
            space.kinds[0].units,
            measured={stage for of_unit in p for stage in of_unit},
        )
        standing = Standing(p, stages, own.tolist(), parts)
        card = ExplanationCard(
            noun=space.kinds[0].units,
            judge=self.evaluator.judge.name,
            ranking=self.ranking.name,
            share=share,
            k=len(self.units),
            units=space.total,
            layers=space.layers,
            n=len(prompts.test),
            n_harmless=len(prompts.harmless),
            neurons=unit_rows(self.units, self.ranking, found, standing),
            null=nulls_of(found.by_stage, self.units),
            stages=having,
            parts=figures,
            detectors=[
                row
                for side, of in found.detection.items()
                for row in measured.detectors_in(
                    str(side), of.areas, self.units, len(prompts.test), len(prompts.harmless)
                )
            ],
            openings=openings,
            agreement=found.held.agreement,
            causal=causal,
            flow=flow,
            direction=direction_figures(
                self.evaluator, prompts, direction, watched, test, random[self.units.key]
            ),
            verdict=verdict,
            reasons=reasons,
            rules=RULES,
        )
        return card, direction

    def _answered(self, prompts: PromptSet, *sides: Side) -> list[Answered]:
        return [
            Answered(
                side,
                self.evaluator.encoded(prompts),
                self.evaluator.completions(prompts, Setting(side), "Answers"),
                self.evaluator.judged(prompts, Setting(side), "Answers").verdicts,
            )
            for side in sides
        ]

    def _openings(self) -> tuple[Openings, OpeningSets]:
        kinds = OpeningSets.of(self._answered(self.prompts.found, *Side))
        auroc, refusals, compliances = told_apart(
            self.evaluator.group,
            kinds,
            self._answered(self.prompts.select, *Side),
            self.evaluator.decoding,
        )
        tokenizer = self.evaluator.group.tokenizer
        texts = [
            [str(tokenizer.decode(list(opening))) for opening in of]
            for of in (kinds.refusal, kinds.compliance)
        ]
        found = Openings(
            refusal=texts[0],
            compliance=texts[1],
            dropped=kinds.dropped,
            auroc=auroc,
            refusals=refusals,
            compliances=compliances,
            usable=auroc is not None and auroc >= USABLE,
        )
        return found, kinds

    def _watched(self, direction: Chosen, openings: OpeningSets) -> Watched:
        prompts, space = self.prompts, self.units.space
        means = [
            self.evaluator.read(
                of,
                [[[direction.position]]] * len(of),
                space,
                Setting(Side.ALIGNED),
                label="Means",
            )
            .units[:, 0]
            .mean(dim=0)
            for of in (prompts.found, prompts.found_harmless)
        ]
        ends = {
            side: directions_at_end(self.evaluator, side, prompts.found, prompts.found_harmless)
            for side in Side
        }
        return Watched(
            layer=direction.layer,
            position=direction.position,
            end=ends,
            way=direction.directions,
            first=openings.first_tokens,
            means=measured.harmless_means(self.evaluator, prompts.found_harmless, space),
            harmless=means[1],
            difference=means[0] - means[1],
        )

    def _effects(
        self, direction: Chosen, watched: Watched, openings: OpeningSets | None
    ) -> measured.Effects:
        evaluator, prompts, space = self.evaluator, self.prompts, self.units.space
        detection = {
            side: self.kept.value(
                measured.Detection,
                f"detection-{side}",
                measured.detection_of,
                evaluator,
                side,
                prompts.test,
                prompts.harmless,
                space,
            )
            for side in Side
        }
        targets = Targets(
            dict(enumerate(direction.directions.probes)),
            direction.position,
            self._later_weights(watched),
        )
        encoded = evaluator.encoded(prompts.test)
        mediation = self.kept.value(
            Mediation,
            "mediation",
            measured.mediation_of,
            evaluator,
            encoded,
            targets,
            watched.means,
        )
        layers = space.layers_of(torch.arange(space.total))
        nothing_behind = layers >= max(targets.streams)
        first_order = mediation.direction.mean.masked_fill(nothing_behind, torch.nan)
        held = self.kept.value(
            measured.HeldUnits,
            "held",
            measured.hold_one_by_one,
            evaluator,
            encoded,
            self.units,
            first_order,
            targets,
            watched.means,
            self.options.exact,
            self.options.seed,
        )
        steering = None
        if openings is not None:
            steering = self.kept.value(
                Moments,
                "steering",
                measured.steering_of,
                evaluator,
                space,
                encoded,
                openings,
            )
        by_stage = {
            StageName.DETECTION: measured.distance(detection[Side.ALIGNED].areas),
            StageName.MEDIATION: first_order,
        }
        if steering is not None:
            by_stage[StageName.STEERING] = steering.mean
        return measured.Effects(detection, mediation, held, steering, by_stage)

    def _later_weights(self, watched: Watched) -> Float[Tensor, "unit"]:
        """Of the set's units, what sets kinds of prompts apart, each layer's together 1."""
        weights = torch.zeros(self.units.space.total)
        chosen = watched.difference[self.units.flat]
        weights[self.units.flat] = chosen
        for key in self.units.space.keys:
            span = self.units.space.slice_of(key)
            size = weights[span].square().sum()
            weights[span] = weights[span] / size if float(size) > 0 else weights[span]
        return weights

    def _random(self, units: UnitSet) -> tuple[UnitSet, ...]:
        """As many units in each layer, outside the whole set; none where too few are left."""
        drawn = []
        for draw in range(self.options.controls):
            seed = 1000 * self.options.seed + draw
            sample = units.matched_random(seed, outside=self.units)
            drawn += [sample] if sample is not None else []
        return tuple(drawn)

    def _causal(
        self,
        test: CausalTest,
        sets: Mapping[StageName, UnitSet],
        random: Mapping[str, tuple[UnitSet, ...]],
    ) -> list[CausalRow]:
        nobody = UnitSet.none(self.units.space)
        arms = [Arm("none", SET, side, nobody) for side in Side]
        known = {str(stage): units for stage, units in sets.items() if len(units)}
        for stage, units in known.items():
            arms.append(Arm("ablate", stage, Side.ALIGNED, units, random[units.key]))
        arms.append(Arm("ablate", SET, Side.ALIGNED, self.units, random[self.units.key]))
        for stage, units in known.items():
            # What a random patch gives hardly varies: it gives nothing.
            arms.append(Arm("patch", stage, Side.UNALIGNED, units, random[units.key][:1]))
        joined, names = nobody, list[str]()
        for stage, units in known.items():
            joined, names = joined | units, [*names, stage]
            if len(names) > 1:
                drawn = self._random(joined)[:1]
                arms.append(Arm("patch", "+".join(names), Side.UNALIGNED, joined, drawn))
        arms.append(Arm("patch", SET, Side.UNALIGNED, self.units, random[self.units.key][:1]))
        return test.rows(arms)

    def _flow(
        self,
        test: CausalTest,
        sets: Mapping[StageName, UnitSet],
        random: Mapping[str, tuple[UnitSet, ...]],
    ) -> list[Flow]:
        found = [
            test.flow((source, sets[source]), (target, sets[target]), random[sets[source].key])
            for source, target in LINKS
            if len(sets[source]) and len(sets[target])
        ]
        return [flow for flow in found if flow is not None]


def _figures(units: UnitSet) -> StageFigures:
    if not len(units):
        return StageFigures(k=0)
    layers = units.space.layers_of(units.flat).double()
    quartiles = [float(layers.quantile(q)) for q in (0.25, 0.5, 0.75)]
    return StageFigures(k=len(units), quartiles=quartiles)
