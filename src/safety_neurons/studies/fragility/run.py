"""Measure how few units a model's refusals rest on.

1. The model answers harmful and harmless prompts; from its own answers: means over harmless ones,
   magnitudes, and what each unit's ablation would take from its refusals.
2. Every set of every size is removed in every way: refusals, answers on topic, perplexity on
   harmless prompts.
3. The first units are removed one by one, the chosen ones amplified.
4. The card is written to `fragility.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from safety_neurons import defaults
from safety_neurons.engine import ALONE, ModelGroup, Role, Side
from safety_neurons.environment import environment
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting, surprisals
from safety_neurons.inference.refusal_odds import changed_log_odds
from safety_neurons.interventions import Ablate, Scale
from safety_neurons.judges import Judge, Verdict, judges_of
from safety_neurons.models import LoadedModel, ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, PromptSet, load_prompts
from safety_neurons.runs import COMPLETIONS, SUMMARY, RunFolder, read_summary, require_same_models
from safety_neurons.runs.fragility import (
    FRAGILITY,
    HEADLINE,
    RANDOM,
    Amplified,
    FragilityCard,
    RefusalRate,
    RemovalPoint,
    SingleEffect,
)
from safety_neurons.statistics import mean_interval
from safety_neurons.storage import write_json
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.fragility.options import (
    PERPLEXITY_PROMPTS,
    SINGLE_PROMPTS,
    FragilityOptions,
    FragilityPrompts,
)
from safety_neurons.studies.fragility.removals import (
    Batches,
    Removal,
    Traced,
    concentration,
    planned,
)
from safety_neurons.studies.fragility.topic import on_topic
from safety_neurons.studies.sets import rankings_of
from safety_neurons.units import Ranking, SiteKind, UnitSet, UnitSpace, units_in

_AMPLIFIED_SHARE = 0.005
_SETTINGS_AT_ONCE = 8
"""Settings of one pass over harmless answers; with more, batches become too small."""
_HALF = 0.5


def fragility(
    run: RunFolder,
    pair: ModelPair,
    prompts: FragilityPrompts | None = None,
    options: FragilityOptions | None = None,
    *,
    ranking: str | None = None,
    limit: int | None = None,
    judge: Judge | str = defaults.JUDGE,
    progress: Progress | None = None,
) -> FragilityCard:
    """Remove and amplify units of the run's aligned model, and write the run's `fragility.json`.

    Args:
        pair: of the run.
        prompts: by default the built-in ones, and those that the run was found on for finding.
        ranking: of the run, whose units are removed first; by default its primary one.
        limit: at most so many prompts of each built-in set.

    Returns:
        What `fragility.json` holds.

    Raises:
        UserError: if the run has no complete `find` or no such ranking, was made with other models,
            or the model refuses none of the harmful prompts.
    """
    require_same_models(run, pair)
    options = options or FragilityOptions()
    first = next(iter(rankings_of(run, None if ranking is None else [ranking]).values()))
    found = load_prompts(run.result("find", COMPLETIONS))
    prompts = prompts or FragilityPrompts.builtin(limit, found=found, seed=options.seed)
    judging = judges_of(judge).first
    share = options.amplified_share
    if share is None and run.is_whole("validate") and run.file(SUMMARY).is_file():
        chosen = read_summary(run).chosen
        share = chosen.share if chosen.ranking == first.name else None
    evaluator = Evaluator.of_run(run, pair, judging, options.decoding, progress or Silent())
    study = _Study(evaluator, Side.ALIGNED, Side.UNALIGNED, prompts, options)
    config = {
        **asdict(options),
        "ranking": first.name,
        "prompts": prompts.describe(),
        "judge": judging.name,
        "dtype": str(pair.dtype).removeprefix("torch."),
    }
    with run.stage("fragility", config, [FRAGILITY], read_by=["report"]) as stage:
        card = study.card(first, share, pair.provenance[Side.ALIGNED])
        write_json(stage.file(FRAGILITY), card.written())
    return card


def fragility_of_model(
    model: LoadedModel,
    units: UnitSet | None = None,
    prompts: FragilityPrompts | None = None,
    options: FragilityOptions | None = None,
    *,
    chat: ChatFormat | None = None,
    answers: Path | None = None,
    limit: int | None = None,
    judge: Judge | str = defaults.JUDGE,
    progress: Progress | None = None,
) -> FragilityCard:
    """As `fragility`, of one model without a sibling: nothing is copied from another.

    Args:
        units: a set in question, such as one of a file; without one, the model's own gradients say
            which units come first.
        answers: a folder that keeps answers, so that a stopped study goes on.

    Returns:
        The card; it is not written.

    Raises:
        UserError: if the set is of another model, or the model refuses none of the harmful prompts.
    """
    options = options or FragilityOptions()
    prompts = prompts or FragilityPrompts.builtin(limit, seed=options.seed)
    judging = judges_of(judge).first
    evaluator = Evaluator(
        model, judging, options.decoding, chat or ChatFormat(), answers, progress or Silent()
    )
    card = _Study(evaluator, ALONE, ALONE, prompts, options).card(
        units, options.amplified_share, model.provenance
    )
    return card.model_copy(update={"environment": environment()})


@dataclass(frozen=True)
class _Study:
    """One model's answers under one removal after another.

    Args:
        role: the model.
        reference: the one that says which answers are language.
    """

    evaluator: Evaluator
    role: Role
    reference: Role
    prompts: FragilityPrompts
    options: FragilityOptions

    @property
    def group(self) -> ModelGroup:
        return self.evaluator.group

    @property
    def intact(self) -> Setting:
        return Setting(self.role)

    def card(
        self, first: Ranking | UnitSet | None, share: float | None, model: dict
    ) -> FragilityCard:
        space = self.group.space() if first is None else first.space
        if space != self.group.space(*space.kinds):
            raise UserError("The set is of a differently shaped model; give one of this model.")
        tested = self.evaluator.judged(self.prompts.tested, self.intact, "Answers")
        if not sum(tested.refusals):
            raise UserError(
                f"The model refuses none of {len(self.prompts.tested)} harmful prompts, so there "
                "is nothing to take away; give an aligned model."
            )
        channels = self._channels(space)
        whole = space if channels is None else self.group.space(*space.kinds, *channels.kinds)
        refused = self._refused()
        both = self._traced(whole, refused)
        traced = both.within(space)
        removals = planned(
            self.role,
            first,
            traced,
            None if channels is None else both.within(channels),
            self.options.shares,
            self.options.seed,
        )
        curve, perplexity = self._curve(removals)
        ranking = first if isinstance(first, Ranking) else traced.ablation
        amplified = self._to_amplify(first, ranking, share)
        held = concentration(traced.ablation.scores)
        # Of as few units, those without which the model still answers.
        halving = min(
            (p for p in curve if self._halves(p)),
            key=lambda point: (point.k, -(point.on_topic or 0)),
            default=None,
        )
        return FragilityCard(
            model=model,
            noun=space.kinds[0].units,
            units=space.total,
            ranking=ranking.name,
            judge=self.evaluator.judge.name,
            intact=RefusalRate.of(tested.refusal_rate),
            intact_harmless=RefusalRate.of(
                self.evaluator.judged(
                    self.prompts.harmless, self.intact, "Harmless answers"
                ).refusal_rate
            ),
            intact_perplexity=perplexity,
            intact_on_topic=self._on_topic(self.intact),
            unaligned=self._unaligned(),
            unaligned_on_topic=None
            if self.reference is self.role
            else self._on_topic(Setting(self.reference)),
            curve=curve,
            single=self._singles(ranking, traced, refused),
            single_ranking=ranking.name,
            amplification=self._amplification(amplified),
            amplified_k=len(amplified),
            halving_k=halving.k if halving else None,
            halving_set=halving.set if halving else None,
            n50=held.n50,
            gini=held.gini,
            effective_neurons=held.effective,
            options={**asdict(self.options), "prompts": self.prompts.describe()},
        )

    def _unaligned(self) -> RefusalRate | None:
        if self.reference is self.role:
            return None
        setting = Setting(self.reference)
        judged = self.evaluator.judged(self.prompts.tested, setting, "Answers")
        return RefusalRate.of(judged.refusal_rate)

    def _channels(self, space: UnitSpace) -> UnitSpace | None:
        """Attention's output channels, where the study is of neurons."""
        if not self.options.attention or space.kinds != (SiteKind.MLP,):
            return None
        known = {site.key.site for site in self.group.members[self.role].sites}
        if SiteKind.ATTENTION not in known:
            self.evaluator.progress.note(
                "The architecture does not say where attention's channels are, so they stay."
            )
            return None
        return self.group.space(SiteKind.ATTENTION)

    def _refused(self) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of prompts that the model refuses, and of its refusals."""
        found = self.prompts.found
        judged = self.evaluator.judged(found, self.intact, "Refusals")
        answers = self.evaluator.completions(found, self.intact, "Refusals")
        encoded = self.evaluator.encoded(found)
        kept = [i for i, verdict in enumerate(judged.verdicts) if verdict is Verdict.REFUSAL]
        if not kept:
            raise UserError(
                f"The model refuses none of {len(found)} harmful prompts of '{found.name}', so "
                "there is nothing that units could be ranked by; give other prompts."
            )
        return [encoded[i] for i in kept], [answers[i] for i in kept]

    def _traced(self, space: UnitSpace, refused: tuple[list, list]) -> Traced:
        def batches(prompts: list, answers: list) -> Batches:
            plan = self.evaluator.decoding.batches(prompts, settings=8)
            return [([prompts[i] for i in b], [answers[i] for i in b]) for b in plan]

        def own(prompts: PromptSet) -> Batches:
            answers = self.evaluator.completions(prompts, self.intact, "Own answers")
            return batches(self.evaluator.encoded(prompts), answers)

        return Traced.of(
            self.group,
            self.role,
            space,
            own(self.prompts.means),
            own(self.prompts.found),
            batches(*refused),
        )

    def _curve(self, removals: Sequence[Removal]) -> tuple[list[RemovalPoint], float]:
        """All points, and the unchanged model's perplexity on its own harmless answers."""
        settings = [removal.setting for removal in removals]
        tested = self.prompts.tested
        self.evaluator.prepare(tested, settings, "Removals")
        perplexities = self._perplexities([self.intact, *settings])
        points = [
            RemovalPoint.of(
                self.evaluator.judged(tested, removal.setting, removal.name).refusal_rate,
                removal=removal.removal,
                set=removal.name,
                site=removal.site,
                k=len(removal.units),
                share=removal.share,
                on_topic=self._on_topic(removal.setting),
                harmless_perplexity=perplexities[removal.setting.key],
            )
            for removal in self.evaluator.progress.track(removals, "On topic")
        ]
        return points, perplexities[self.intact.key]

    def _perplexities(self, settings: Sequence[Setting]) -> dict[str, float]:
        """By the settings' keys, of the unchanged model's own answers to harmless prompts."""
        harmless = self.prompts.harmless.limited(PERPLEXITY_PROMPTS, seed=self.options.seed)
        answers = self.evaluator.completions(harmless, self.intact, "Harmless answers")
        distinct = list({setting.key: setting for setting in settings}.values())
        found: dict[str, float] = {}
        together = range(0, len(distinct), _SETTINGS_AT_ONCE)
        for start in self.evaluator.progress.track(together, "Harmless perplexity"):
            few = {s.key: s for s in distinct[start : start + _SETTINGS_AT_ONCE]}
            costs = surprisals(
                self.group, self.evaluator.encoded(harmless), answers, few, self.options.decoding
            )
            found |= {key: costs.perplexity(key) for key in few}
        return found

    def _on_topic(self, setting: Setting) -> float | None:
        return on_topic(self.evaluator, self.prompts.tested, setting, self.reference, "On topic")

    def _singles(
        self, ranking: Ranking, traced: Traced, refused: tuple[list, list]
    ) -> list[SingleEffect]:
        units = ranking.order[: self.options.singles].tolist()
        prompts, refusals = (of[:SINGLE_PROMPTS] for of in refused)
        if not units:
            return []
        progress = self.evaluator.progress
        held = [
            Ablate(UnitSet.of(torch.tensor([unit]), ranking.space), traced.means) for unit in units
        ]
        changes = changed_log_odds(self.group, self.role, prompts, refusals, held, progress)
        means = changes.mean(dim=1)
        strongest = set(means.argsort()[: self.options.generated].tolist())
        alone = {
            i: Setting(
                self.role, (Ablate(UnitSet.of(ranking.order[[i]], ranking.space), traced.means),)
            )
            for i in strongest
        }
        if alone:
            self.evaluator.prepare(self.prompts.tested, list(alone.values()), "Single units")
        found = []
        for i, name in enumerate(ranking.space.names_of(ranking.order[: len(units)])):
            interval = mean_interval(changes[i].tolist(), seed=self.options.seed)
            found.append(
                SingleEffect(
                    unit=name,
                    rank=i + 1,
                    log_odds=float(means[i]),
                    n=len(prompts),
                    ci_low=interval.low if interval else None,
                    ci_high=interval.high if interval else None,
                    generated=RefusalRate.of(
                        self.evaluator.judged(self.prompts.tested, alone[i], name).refusal_rate
                    )
                    if i in alone
                    else None,
                )
            )
        return found

    def _to_amplify(
        self, first: Ranking | UnitSet | None, ranking: Ranking, share: float | None
    ) -> UnitSet:
        if share is None and isinstance(first, UnitSet):
            return first
        k = max(units_in(_AMPLIFIED_SHARE if share is None else share, ranking.space), 1)
        return UnitSet.of(ranking.order[:k], ranking.space, ranking=ranking.name)

    def _amplification(self, units: UnitSet) -> list[Amplified]:
        settings = {
            factor: Setting(self.role, (Scale(units, factor),)) for factor in self.options.factors
        }
        found = []
        for kind, prompts in (
            ("harmful", self.prompts.tested),
            ("harmless", self.prompts.harmless),
        ):
            if settings:
                self.evaluator.prepare(prompts, list(settings.values()), f"Amplified ({kind})")
            for factor, setting in settings.items():
                judged = self.evaluator.judged(prompts, setting, f"Amplified ({kind})")
                found.append(Amplified.of(judged.refusal_rate, factor=factor, prompts=kind))
        return found

    def _halves(self, point: RemovalPoint) -> bool:
        """Whether a removal that counts for the headline leaves at most half of the refusals."""
        before = self.evaluator.judged(self.prompts.tested, self.intact, "Answers").refusal_rate
        return (
            point.removal == HEADLINE
            and point.set != RANDOM
            and point.site is not SiteKind.ATTENTION
            and point.refusal_rate is not None
            and before.value is not None
            and point.refusal_rate <= _HALF * before.value
        )
