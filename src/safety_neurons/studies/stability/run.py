"""Make the stability card of a validated run.

1. Rank again on each half of the prompts, and with the other side's completions; compare with the
   run's other rankings, with other runs', and with the units that harmless answers rest on.
2. Patch, on the run's test prompts: the chosen set, sets that other runs chose, random sets and
   sets of the same magnitude.
3. Judge by the rules of `verdict`, and write `stability.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from safety_neurons import defaults
from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import ALIGNED, UNALIGNED, Decoding, Setting
from safety_neurons.interventions import Patch
from safety_neurons.judges import Judge, judges_of
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import (
    ChatFormat,
    Kind,
    Prompt,
    PromptSet,
    Split,
    builtin,
    load_prompts,
)
from safety_neurons.runs import (
    COMPLETIONS,
    HARMLESS_COMPLETIONS,
    TABLE,
    RunFolder,
    Summary,
    read_samples,
    read_summary,
    require_same_models,
)
from safety_neurons.runs.record import effect_fields
from safety_neurons.runs.stability import STABILITY, SetEffect, StabilityCard
from safety_neurons.storage import write_json
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.finding.completions import answered
from safety_neurons.studies.finding.ranking import Given
from safety_neurons.studies.sets import top_units
from safety_neurons.studies.stability.overlaps import of_this_run, with_runs, with_utility
from safety_neurons.studies.stability.verdict import RULES, judged
from safety_neurons.studies.validation.curve import effect_of
from safety_neurons.units import Ranking, UnitSet, UnitSpace, read_means, read_table

if TYPE_CHECKING:
    from safety_neurons.models import ModelPair


def stability(
    run: RunFolder,
    pair: ModelPair,
    others: Sequence[RunFolder] = (),
    *,
    harmless: PromptSet | None = None,
    judge: Judge | str = defaults.JUDGE,
    controls: int = defaults.CONTROLS,
    seed: int = defaults.SEED,
    progress: Progress | None = None,
) -> StabilityCard:
    """Measure how stable the chosen set of `run` is, and write its card.

    Args:
        pair: of the run.
        others: validated runs on models of the same shape, such as other seeds of a training or
            other prompts; their chosen sets are patched into this run's pair.
        harmless: what units of harmless answers are found on; the built-in split `find` by default.
        controls: random sets, and as many of the same magnitude.

    Returns:
        What `stability.json` holds.

    Raises:
        UserError: if a run has no complete `find` and `validate`, another one's models have another
            shape, or the judge is not the run's.
    """
    summary = read_summary(run)
    progress = progress or Silent()
    require_same_models(run, pair)
    first = judges_of(judge).first
    if first.name != summary.judge:
        raise UserError(
            f"'{run.path}' was judged by '{summary.judge}', not by '{first.name}'; name that one "
            "with --judge, or run `safety-neurons validate` again."
        )
    rankings = read_table(run.result("find", TABLE))
    chosen = rankings[summary.chosen.ranking]
    chosen_of = {
        name: _chosen_in(other, chosen.space)
        for name, other in zip(_names_of(others), others, strict=True)
    }
    harmless = harmless or builtin(Kind.HARMLESS, Split.FIND)
    config = {
        "others": [
            {"run": str(other.path), "chosen": read_summary(other).chosen.written()}
            for other in others
        ],
        "harmless": harmless.describe(),
        "judge": first.name,
        "controls": controls,
        "seed": seed,
        "dtype": str(pair.dtype).removeprefix("torch."),
    }
    with run.stage("stability", config, [STABILITY], read_by=["report"]) as stage:
        k = summary.chosen.k
        given, harmless_given = _given(run, pair, chosen.space, harmless, progress)
        overlaps = [
            *of_this_run(given, rankings, chosen.name, k),
            with_utility(harmless_given, chosen, k),
            *with_runs(chosen, [(name, ranking) for name, (ranking, _) in chosen_of.items()], k),
        ]
        measured = _Effects(run, pair, summary, first, progress, seed)
        units = chosen.top(summary.chosen.share)
        differs = _difference(run)
        own = measured.of({"the chosen set": units})[0]
        transfers = measured.of({name: theirs for name, (_, theirs) in chosen_of.items()})
        random = measured.of(
            _drawn("random set", [units.matched_random(seed + i) for i in range(controls)])
        )
        magnitude = measured.of(
            _drawn(
                "set of the same magnitude",
                [units.matched_by(differs, seed + i) for i in range(controls)],
            )
        )
        verdict, reasons = judged(own, [*random, *magnitude], overlaps, transfers)
        card = StabilityCard(
            ranking=summary.chosen.ranking,
            share=summary.chosen.share,
            n=measured.n,
            own=own,
            overlaps=overlaps,
            transfers=transfers,
            random=random,
            magnitude=magnitude,
            verdict=verdict,
            reasons=reasons,
            rules=RULES,
        )
        write_json(stage.file(STABILITY), card.written())
    return card


def _chosen_in(other: RunFolder, space: UnitSpace) -> tuple[Ranking, UnitSet]:
    """The ranking that another run chose, and its set."""
    chosen = read_summary(other).chosen
    ranking = read_table(other.result("find", TABLE))[chosen.ranking]
    if ranking.space != space:
        raise UserError(
            f"'{other.path}' ranks units of a differently shaped model; give runs on models of the "
            "same shape."
        )
    return ranking, top_units(other, chosen.share, chosen.ranking)


def _names_of(others: Sequence[RunFolder]) -> list[str]:
    """The folders' names, or whole paths where two are called the same."""
    names = [other.path.name for other in others]
    return names if len(set(names)) == len(names) else [str(other.path) for other in others]


def _given(
    run: RunFolder, pair: ModelPair, space: UnitSpace, harmless: PromptSet, progress: Progress
) -> tuple[Given, Given]:
    """The completions that the run was found on, of both sides, and the harmless ones."""
    found = run.config("find")
    decoding = Decoding(found["decoding"]["max_new_tokens"], found["decoding"]["batch_size"])
    chat = ChatFormat.of_config(found)
    prompts = load_prompts(run.result("find", COMPLETIONS))
    of_both = answered(pair, prompts, list(Side), decoding, chat, run, progress)
    of_harmless = answered(pair, harmless, [Side.ALIGNED], decoding, chat, run, progress)
    beside = None
    if "harmless" in found:
        seen = load_prompts(run.result("find", HARMLESS_COMPLETIONS))
        beside = answered(pair, seen, [Side.ALIGNED], decoding, chat, run, progress)
    contrast_on = Side(found["contrast_on"])
    return (
        Given(pair, of_both, space, contrast_on, decoding, run, progress, harmless=beside),
        Given(pair, of_harmless, space, Side.ALIGNED, decoding, run, progress),
    )


def _difference(run: RunFolder) -> Float[Tensor, "unit"]:
    """How much each unit's mean activation differs between the models."""
    means = read_means(run.result("find", TABLE))
    return (means["mean_aligned"] - means["mean_unaligned"]).abs()


def _drawn(name: str, sets: Sequence[UnitSet | None]) -> dict[str, UnitSet]:
    return {f"{name} {i + 1}": units for i, units in enumerate(sets) if units is not None}


class _Effects:
    """Effects of sets on the run's test prompts, which stand in its samples."""

    def __init__(
        self,
        run: RunFolder,
        pair: ModelPair,
        summary: Summary,
        judge: Judge,
        progress: Progress,
        seed: int,
    ) -> None:
        config = run.config("validate")["decoding"]
        decoding = Decoding(config["max_new_tokens"], config["batch_size"])
        self._evaluator = Evaluator.of_run(run, pair, judge, decoding, progress)
        self._prompts = PromptSet(
            "test",
            tuple(
                Prompt(row.id, row.prompt, row.category)
                for row in read_samples(run)
                if row.kind == "harmful"
            ),
        )
        self._seed = seed

    @property
    def n(self) -> int:
        return len(self._prompts)

    def of(self, sets: dict[str, UnitSet]) -> list[SetEffect]:
        """The effect of each set, patched into the unaligned model."""
        settings = {name: Setting(Side.UNALIGNED, (Patch(units),)) for name, units in sets.items()}
        label = "Stability"
        self._evaluator.prepare(self._prompts, [UNALIGNED, ALIGNED, *settings.values()], label)
        found = []
        for name, setting in settings.items():
            effect = effect_of(self._evaluator, self._prompts, setting, label, seed=self._seed)
            found.append(
                SetEffect(
                    name=name,
                    k=len(sets[name]),
                    **effect_fields(effect),
                )
            )
        return found
