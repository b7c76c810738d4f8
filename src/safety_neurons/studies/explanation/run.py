"""Explain what a run's set does: detect harm, raise refusal, steer the output.

1. Both models answer; their answers say what refusals and compliances begin with.
2. The refusal direction is taken from prompts to find on, its layer and place chosen on `select`.
3. On test prompts: detection, mediation and steering of all units; those of the set that do more
   than units outside it have a stage.
4. Stages are knocked out and patched in.
5. The card is written to `explanation.json`, the direction beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons import defaults
from safety_neurons.engine import Side
from safety_neurons.engine.effective import neighbours
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting
from safety_neurons.inference.reading import read_at
from safety_neurons.interventions import AblateDirection, Steer
from safety_neurons.judges import Judge, judges_of
from safety_neurons.methods.direction import Directions, cosines
from safety_neurons.methods.mediation import Mediation, Targets
from safety_neurons.methods.moments import Moments
from safety_neurons.methods.steering import DirectEffects, columns_of
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import PromptSet, load_prompts
from safety_neurons.runs import COMPLETIONS, SUMMARY, RunFolder, read_summary, require_same_models
from safety_neurons.runs.explanation import (
    DIRECTION,
    EXPLANATION,
    Area,
    CausalRow,
    DirectionFigures,
    ExplainedUnit,
    ExplanationCard,
    Figure,
    Flow,
    LayerCosines,
    Openings,
    Position,
    StageFigures,
    StageName,
)
from safety_neurons.runs.neuronpages import PAGES, NeuronPages
from safety_neurons.storage import write_json, write_whole
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation import effects as measured
from safety_neurons.studies.explanation.causal import SET, Arm, CausalTest, Watched, area
from safety_neurons.studies.explanation.corpus import Corpus
from safety_neurons.studies.explanation.directions import (
    Chosen,
    choose_direction,
    directions_at,
    directions_at_end,
    places_in,
)
from safety_neurons.studies.explanation.keeping import Keeping
from safety_neurons.studies.explanation.openings import (
    USABLE,
    Answered,
    OpeningSets,
    told_apart,
)
from safety_neurons.studies.explanation.options import SHARE, ExplainOptions, ExplanationPrompts
from safety_neurons.studies.explanation.pages import Refused, neuron_pages, units_named
from safety_neurons.studies.explanation.relays import own_activity, parts_of, sets_of
from safety_neurons.studies.explanation.stages import nulls_of, stages_of
from safety_neurons.studies.explanation.verdict import RULES, judged
from safety_neurons.studies.sets import rankings_of
from safety_neurons.units import Ranking, SiteKind, UnitSet

_HELD = ("units", "top", "exact", "first_order")
LINKS = (
    (StageName.DETECTION, StageName.MEDIATION),
    (StageName.DETECTION, StageName.STEERING),
    (StageName.MEDIATION, StageName.STEERING),
)


def explain(
    run: RunFolder,
    pair: ModelPair,
    prompts: ExplanationPrompts | None = None,
    options: ExplainOptions | None = None,
    *,
    ranking: str | None = None,
    limit: int | None = None,
    judge: Judge | str = defaults.JUDGE,
    progress: Progress | None = None,
) -> ExplanationCard:
    """Say what the units of a run's set do, and write the run's `explanation.json`.

    Args:
        pair: of the run.
        prompts: by default the built-in ones, and those that the run was found on for finding.
        ranking: of the run, whose first units are the set; by default its primary one.
        limit: at most so many prompts of each built-in set; by default LIMIT.

    Returns:
        What `explanation.json` holds.

    Raises:
        UserError: if the run has no complete `find`, no such ranking or one of other units than
            neurons, was made with other models, or the aligned model refuses none of the prompts.
    """
    require_same_models(run, pair)
    options = options or ExplainOptions()
    first = next(iter(rankings_of(run, None if ranking is None else [ranking]).values()))
    if first.space.kinds != (SiteKind.MLP,):
        raise UserError(
            f"'{run.path}' ranks {first.space.kinds[0].units}, and what is explained are neurons; "
            "run `find` without --site."
        )
    if prompts is None:
        found = load_prompts(run.result("find", COMPLETIONS))
        chosen = {} if limit is None else {"limit": limit}
        prompts = ExplanationPrompts.builtin(**chosen, found=found, seed=options.seed)
    judging = judges_of(judge).first
    share = options.share or _chosen_share(run, first) or SHARE
    evaluator = Evaluator.of_run(run, pair, judging, options.decoding, progress or Silent())
    config = {
        **asdict(options),
        "share": share,
        "ranking": first.name,
        "prompts": prompts.describe(),
        "judge": judging.name,
        "dtype": str(pair.dtype).removeprefix("torch."),
    }
    results = [EXPLANATION, DIRECTION, PAGES]
    with run.stage("explain", config, results, read_by=["report"]) as stage:
        kept = Keeping.of(run.state("explain"), config, pair.identity)
        study = _Study(evaluator, first.top(share), first, prompts, options, kept)
        card, direction = study.card(share)
        card = card.model_copy(update={"options": config})
        write_json(stage.file(EXPLANATION), card.written())
        saved = {"difference": direction.directions.difference.float().contiguous()}
        provenance = {"layer": str(direction.layer), "position": str(direction.position)}
        write_whole(
            stage.file(DIRECTION), lambda draft: save_file(saved, draft, metadata=provenance)
        )
        write_json(
            stage.file(PAGES), _pages(run, pair, evaluator, card, prompts, options).written()
        )
    return card


def _pages(
    run: RunFolder,
    pair: ModelPair,
    evaluator: Evaluator,
    card: ExplanationCard,
    prompts: ExplanationPrompts,
    options: ExplainOptions,
) -> NeuronPages:
    """The first units of the set looked at closely."""
    rankings = rankings_of(run)
    space = next(iter(rankings.values())).space
    shown = card.neurons[: options.pages]
    if not shown:
        return NeuronPages(corpus="none", tokens=0, pages=[])
    return neuron_pages(
        pair,
        rankings,
        units_named(space, [unit.unit for unit in shown]),
        Corpus.builtin(evaluator, tokens=options.tokens),
        refused=Refused.by(evaluator, prompts.found),
        stages={unit.unit: unit.stages for unit in card.neurons},
        seed=options.seed,
        progress=evaluator.progress,
    )


def _chosen_share(run: RunFolder, ranking: Ranking) -> float | None:
    """What the run's validation chose, of this ranking."""
    if not (run.is_whole("validate") and run.file(SUMMARY).is_file()):
        return None
    chosen = read_summary(run).chosen
    return chosen.share if chosen.ranking == ranking.name else None


@dataclass(frozen=True)
class _Effects:
    """What all units do, and what it was measured against."""

    detection: Mapping[Side, measured.Detection]
    mediation: Mediation
    held: measured.HeldUnits
    steering: Moments | None
    by_stage: Mapping[StageName, Float[Tensor, "unit"]]


@dataclass(frozen=True)
class _Study:
    """One set of units of the aligned model."""

    evaluator: Evaluator
    units: UnitSet
    ranking: Ranking
    prompts: ExplanationPrompts
    options: ExplainOptions
    kept: Keeping

    def card(self, share: float) -> tuple[ExplanationCard, Chosen]:
        if not len(self.units):
            raise UserError(f"A share of {share:g} is no neuron at all; give a larger one.")
        space, prompts = self.units.space, self.prompts
        openings, kinds = self._openings()
        behind = min(p.behind for p in places_in(self.evaluator, prompts.found))
        direction = Chosen.of_tensors(
            self.kept.tensors(
                "direction",
                lambda: choose_direction(
                    self.evaluator,
                    Side.ALIGNED,
                    (prompts.found, prompts.found_harmless),
                    (prompts.select, prompts.found_harmless),
                    behind,
                ).tensors(),
            )
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
            figures, flow, causal, space.kinds[0].units, steering_measured=openings.usable
        )
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
            neurons=self._rows(found, p, stages, own.tolist(), parts),
            null=nulls_of(found.by_stage, self.units),
            stages=having,
            parts=figures,
            detectors=[
                row
                for side, of in found.detection.items()
                for row in measured.detectors_in(str(side), of.areas, self.units)
            ],
            openings=openings,
            agreement=found.held.agreement,
            causal=causal,
            flow=flow,
            direction=self._direction(direction, watched, test, random[self.units.key]),
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
            read_at(
                self.evaluator.group,
                self.evaluator.encoded(of),
                [[[direction.position]]] * len(of),
                space,
                Setting(Side.ALIGNED),
                self.evaluator.decoding,
                progress=self.evaluator.progress,
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
    ) -> _Effects:
        evaluator, prompts, space = self.evaluator, self.prompts, self.units.space
        detection = {
            side: measured.Detection.of_tensors(
                self.kept.tensors(
                    f"detection-{side}",
                    lambda side=side: measured.detection_of(  # type: ignore[misc]
                        evaluator, side, prompts.test, prompts.harmless, space
                    ).tensors(),
                )
            )
            for side in Side
        }
        targets = Targets(
            dict(enumerate(direction.directions.probes)),
            direction.position,
            self._later_weights(watched),
        )
        encoded = evaluator.encoded(prompts.test)
        mediation = Mediation.of_tensors(
            self.kept.tensors(
                "mediation",
                lambda: measured.mediation_of(evaluator, encoded, targets, watched.means).tensors(),
            )
        )
        layers = space.layers_of(torch.arange(space.total))
        nothing_behind = layers >= max(targets.streams)
        first_order = mediation.direction.mean.masked_fill(nothing_behind, torch.nan)
        held = self.kept.tensors(
            "held",
            lambda: _tensors(
                measured.hold_one_by_one(
                    evaluator,
                    encoded,
                    self.units,
                    first_order,
                    targets,
                    watched.means,
                    self.options.exact,
                    self.options.seed,
                )
            ),
        )
        steering = None
        if openings is not None:
            steering = Moments.of_tensors(
                self.kept.tensors(
                    "steering",
                    lambda: measured.steering_of(
                        evaluator,
                        DirectEffects(evaluator.group, Side.ALIGNED, space),
                        encoded,
                        openings,
                    ).tensors(),
                )
            )
        by_stage = {
            StageName.DETECTION: measured.distance(detection[Side.ALIGNED].areas),
            StageName.MEDIATION: first_order,
        }
        if steering is not None:
            by_stage[StageName.STEERING] = steering.mean
        return _Effects(detection, mediation, _held(held), steering, by_stage)

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

    def _rows(
        self,
        found: _Effects,
        p: list[dict[StageName, float]],
        stages: list[list[StageName]],
        own: list[float],
        parts: list[StageName | None],
    ) -> list[ExplainedUnit]:
        ranks = self.ranking.ranks
        space = self.units.space
        layers = space.layers_of(self.units.flat).tolist()
        numbers = space.coordinates_of(self.units.flat).tolist()
        exact = found.held.by_unit
        rows = [
            ExplainedUnit(
                unit=name,
                layer=layers[i],
                neuron=numbers[i],
                rank=int(ranks[unit]) + 1,
                detection=_areas(found.detection[Side.ALIGNED].areas, unit),
                detection_unaligned=_areas(found.detection[Side.UNALIGNED].areas, unit),
                mediation=_figure(found.mediation.direction, unit)
                if not found.by_stage[StageName.MEDIATION][unit].isnan()
                else None,
                later=float(found.mediation.later.mean[unit]) if layers[i] < max(layers) else None,
                mediation_exact=exact.get(unit),
                steering=None if found.steering is None else _figure(found.steering, unit),
                p=p[i],
                stages=stages[i],
                own=None if np.isnan(own[i]) else own[i],
                part=parts[i],
            )
            for i, (unit, name) in enumerate(
                zip(self.units.flat.tolist(), self.units.names, strict=True)
            )
        ]
        return sorted(rows, key=lambda row: row.rank)

    def _direction(
        self, chosen: Chosen, watched: Watched, test: CausalTest, random: tuple[UnitSet, ...]
    ) -> DirectionFigures:
        group, prompts = self.evaluator.group, self.prompts
        streams = group.space(SiteKind.RESIDUAL)
        removal = AblateDirection.everywhere(chosen.difference, streams, "refusal direction")
        added = Steer.at(chosen.layer, chosen.difference.float(), streams)
        held = test.setting("ablate", Side.ALIGNED, self.units)
        settings = {
            "intact": Setting(Side.ALIGNED),
            "without_direction": Setting(Side.ALIGNED, (removal,)),
            "without_set": held,
            "without_both": Setting(Side.ALIGNED, (*held.interventions, removal)),
            "unaligned": Setting(Side.UNALIGNED),
            "unaligned_with_direction": Setting(Side.UNALIGNED, (added,)),
        }
        for side in Side:
            of_side = [s for s in settings.values() if s.recipient is side]
            self.evaluator.prepare(prompts.test, of_side, "Refusal direction")
        intact = test.seen(settings["intact"])
        between = float(intact.way[0].mean() - intact.way[1].mean())
        separated = area(*intact.way)
        if separated is None:
            raise UserError("Two test prompts of each kind are needed; give more prompts.")
        direct = self._writes(chosen, between)
        later = self.units.space.layers_of(self.units.flat) >= chosen.layer
        behind = UnitSet.of(self.units.flat[later], self.units.space)
        unaligned = directions_at(
            self.evaluator,
            Side.UNALIGNED,
            prompts.found,
            prompts.found_harmless,
            [chosen.position],
        )[0]
        drawn = [float(direct[units.flat].sum()) for units in random]
        return DirectionFigures(
            layer=chosen.layer,
            position=chosen.position,
            tried=chosen.tried,
            log_odds=chosen.log_odds,
            auroc=separated,
            gap=between * float(chosen.directions.gap[chosen.layer]),
            set_writes=float(direct[self.units.flat].sum()),
            random_writes=float(np.mean(drawn)) if drawn else None,
            cosines=self._cosines(chosen, unaligned, watched),
            refused={name: test.refusals(setting) for name, setting in settings.items()},
            set_left=_left(test, settings["without_direction"], behind),
            direction_left=float(test.seen(held).way[0].mean() / intact.way[0].mean()),
        )

    def _writes(self, chosen: Chosen, between: float) -> Float[Tensor, "unit"]:
        """What each unit below the direction's layer writes along it, as a part of the gap."""
        direct = DirectEffects(self.evaluator.group, Side.ALIGNED, self.units.space)
        direction = chosen.directions.unit[chosen.layer]
        means = []
        for prompts in (self.prompts.test, self.prompts.harmless):
            encoded = self.evaluator.encoded(prompts)
            total = torch.zeros(self.units.space.total, dtype=torch.float64)
            for rows in self.evaluator.decoding.batches(encoded, settings=4):
                few = [encoded[i] for i in rows]
                total += direct.on_direction(few, direction, chosen.position).sum(dim=0)
            means.append(total / len(encoded))
        layers = self.units.space.layers_of(torch.arange(self.units.space.total))
        gap = between * float(chosen.directions.gap[chosen.layer])
        return (means[0] - means[1]).masked_fill(layers >= chosen.layer, 0.0) / gap

    def _cosines(
        self, chosen: Chosen, unaligned: Directions, watched: Watched
    ) -> list[LayerCosines]:
        own = chosen.directions.difference
        model = self.evaluator.group.members[Side.ALIGNED]
        sites = {site.key: site for site in model.sites if site.key in self.units.space}
        beside = neighbours(model.model, list(sites.values()))
        between = cosines(own, unaligned.difference)
        to_chosen = cosines(own, chosen.difference.expand_as(own))
        found = []
        for key, site in sites.items():
            columns, written = self.units.in_block(key), None
            # Behind a norm a layer's units write what depends on all of them.
            if len(columns) and not beside[key].behind:
                difference = watched.difference[self.units.space.slice_of(key)][columns]
                weight = columns_of(model, site)[:, columns].double().cpu()
                vector = weight @ difference.double()
                written = float(cosines(vector[None], chosen.difference[None].double())[0])
            found.append(
                LayerCosines(
                    layer=key.layer,
                    unaligned=float(between[key.layer]),
                    chosen=float(to_chosen[key.layer]),
                    writes=written,
                )
            )
        return found


def _left(test: CausalTest, setting: Setting, units: UnitSet) -> float | None:
    """Of what sets harmful prompts apart in some units, the part that is left under a setting."""
    if not len(units):
        return None
    whole = test.activity(test.seen(Setting(Side.ALIGNED)), units).mean()
    return float(test.activity(test.seen(setting), units).mean() / whole)


def _tensors(held: measured.HeldUnits) -> dict[str, Tensor]:
    of = (held.units, torch.tensor(held.top), held.exact, held.first_order)
    return dict(zip(_HELD, of, strict=True))


def _held(tensors: Mapping[str, Tensor]) -> measured.HeldUnits:
    units, top, exact, first_order = (tensors[name] for name in _HELD)
    return measured.HeldUnits(units, int(top), exact, first_order)


def _figures(units: UnitSet) -> StageFigures:
    if not len(units):
        return StageFigures(k=0)
    layers = units.space.layers_of(units.flat).double()
    quartiles = [float(layers.quantile(q)) for q in (0.25, 0.5, 0.75)]
    return StageFigures(k=len(units), quartiles=quartiles)


def _areas(areas: measured.Areas, unit: int) -> dict[Position, Area]:
    found = {}
    for position, of in areas.items():
        low, high = of.interval
        found[position] = Area(
            auroc=float(of.auroc[unit]), ci_low=float(low[unit]), ci_high=float(high[unit])
        )
    return found


def _figure(moments: Moments, unit: int) -> Figure:
    value, half = float(moments.mean[unit]), float(moments.half_width[unit])
    known = half == half  # with a single prompt there is no interval
    return Figure(
        value=value,
        ci_low=value - half if known else None,
        ci_high=value + half if known else None,
    )
