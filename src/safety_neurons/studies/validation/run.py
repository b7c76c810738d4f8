"""Validate: prove by patching that a few neurons carry the refusals.

1. Both models answer the harmful prompts (select and test), the harmless and the
   borderline ones.
2. On select: the effect of every share of every ranking; the set is chosen there.
3. On test: the same curves with matched random sets, the ceiling (share 1), N90.
4. On test, for the chosen set: necessity, and what the patch does to harmless prompts.
5. Write summary.json and samples.jsonl.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safety_neurons import defaults
from safety_neurons.inference import ALIGNED, UNALIGNED
from safety_neurons.judges import HarmJudge, Judge, Judges, judges_of
from safety_neurons.judges.calibration import Calibration
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import PromptSet, load_prompts, refuse_overlap
from safety_neurons.runs import (
    COMPLETIONS,
    HARMLESS_COMPLETIONS,
    SAMPLES,
    SUMMARY,
    RunFolder,
    Summary,
    require_same_models,
)
from safety_neurons.runs.summary import Chosen, threshold
from safety_neurons.storage import write_json, write_jsonl
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.sets import rankings_of
from safety_neurons.studies.validation import checks, comparing, lengths
from safety_neurons.studies.validation import measurements as measured
from safety_neurons.studies.validation.curve import choose
from safety_neurons.studies.validation.measurements import ChosenSet, ceiling_of, curves
from safety_neurons.studies.validation.options import TestPrompts, ValidateOptions
from safety_neurons.units import Ranking


def validate(
    run: RunFolder,
    pair: ModelPair,
    prompts: TestPrompts | None = None,
    options: ValidateOptions | None = None,
    *,
    judge: Judges | Judge | HarmJudge | str | Sequence[Judge | HarmJudge | str] = defaults.JUDGE,
    calibration: str | Path | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Measure the run's rankings on `pair` and write its summary.

    Args:
        judge: one of its own, or the name of a registered one. Of several, the first makes every
            figure, and the others are compared with it on the chosen set. Judges of harm give an
            effect of their own.
        calibration: the file of `calibrate_judge`, by which the chosen set's figures are corrected
            for the first judge's errors.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if the run has no complete `find` or none of the rankings named, was made with
            other models, or was found on prompts that are tested now.
    """
    prompts, options, rankings = _ready(run, pair, prompts, options)
    progress = progress or Silent()
    judges = judge if isinstance(judge, Judges) else judges_of(judge)
    errors = None if calibration is None else Calibration.read(calibration, judges.first.name)
    for note in pair.notes:
        progress.note(note)
    config = {
        **asdict(options),
        "prompts": prompts.describe(),
        "dtype": str(pair.dtype).removeprefix("torch."),
        "judge": judges.first.name,
        **({"other_judges": names} if (names := _others(judges)) else {}),
        **({"calibration": errors.model_dump()} if errors else {}),
    }
    with run.stage(
        "validate", config, [SUMMARY, SAMPLES], read_by=["stability", "report"]
    ) as stage:
        evaluator = Evaluator.of_run(run, pair, judges.first, options.decoding, progress)
        summary, chosen = _measured(evaluator, prompts, options, rankings, judges, errors)
        rows = measured.samples(evaluator, prompts, chosen)
        write_jsonl(stage.file(SAMPLES), (row.written() for row in rows))
        found_in = run.manifest.stages["find"].seconds
        seconds = {"find": found_in, "validate": stage.elapsed()}
        summary = summary.model_copy(update={"seconds": seconds})
        write_json(stage.file(SUMMARY), summary.written())
    return summary


def _measured(
    evaluator: Evaluator,
    prompts: TestPrompts,
    options: ValidateOptions,
    rankings: Mapping[str, Ranking],
    judges: Judges,
    calibration: Calibration | None,
) -> tuple[Summary, ChosenSet]:
    select = curves(evaluator, prompts.select, rankings, options, split="select")
    best = choose(select, ceiling_of(select))
    test = curves(evaluator, prompts.test, rankings, options, split="test", claimed=best)
    ceiling = ceiling_of(test)
    reached = {
        name: threshold([p for p in test if p.ranking == name], ceiling) for name in rankings
    }
    chosen = ChosenSet.of(best, rankings, options)
    seed = options.seed
    summary = Summary(
        unaligned=measured.side_rates(evaluator, prompts, UNALIGNED),
        aligned=measured.side_rates(evaluator, prompts, ALIGNED),
        chosen=Chosen(ranking=best.ranking, share=best.share, k=best.k),
        ceiling=ceiling,
        curve=[*select, *test],
        n90={name: t.n90 for name, t in reached.items()},
        first_crossing={name: t.first_crossing for name, t in reached.items()},
        n90_intervals=comparing.n90_intervals(evaluator, prompts.test, rankings, options),
        ceiling_alike=comparing.ceiling_alike(evaluator, prompts.test, rankings),
        control_overlap=comparing.control_overlap(chosen),
        necessity=measured.necessity(evaluator, prompts.test, chosen, seed=seed),
        comparisons=comparing.comparisons(evaluator, prompts.test, rankings, chosen, options),
        needed=comparing.needed(
            evaluator, prompts.test, chosen.settings["patched"], "Sample size (test)"
        ),
        lengths=lengths.lengths(evaluator, prompts.test, chosen, options),
        dose=measured.dose(evaluator, prompts.test, chosen, options),
        by_category=list(measured.category_effects(evaluator, prompts.test, chosen, seed=seed)),
        harmless=measured.harmless(evaluator, prompts.harmless, chosen, seed=seed),
        borderline=measured.borderline(evaluator, prompts.borderline, chosen),
        harmless_curve=measured.harmless_curve(
            evaluator, prompts.harmless, chosen, rankings, options
        ),
        coherence=dict(checks.coherence(evaluator, prompts.test, chosen)),
        judge=evaluator.judge.name,
        judging=checks.judge_checks(
            evaluator, prompts.test, chosen, judges, calibration, seed=seed
        ),
        units=chosen.target.units.space.total,
    )
    return summary, chosen


def plan_prompts(
    run: RunFolder,
    pair: ModelPair,
    prompts: TestPrompts | None = None,
    options: ValidateOptions | None = None,
    *,
    judge: Judge | str = defaults.JUDGE,
    progress: Progress | None = None,
) -> int | None:
    """How many test prompts tell an effect of 0.9 from one of 0.8, by the select split alone.

    What is answered for it is kept for `validate`.

    Returns:
        The number; None where the models differ too little, or prompts are too few, to tell.

    Raises:
        UserError: as `validate` does.
    """
    prompts, options, rankings = _ready(run, pair, prompts, options)
    first = judges_of(judge).first
    evaluator = Evaluator.of_run(run, pair, first, options.decoding, progress or Silent())
    with run.writing():
        select = curves(evaluator, prompts.select, rankings, options, split="select")
        best = choose(select, ceiling_of(select))
        setting = ChosenSet.of(best, rankings, options).settings["patched"]
        return comparing.needed(evaluator, prompts.select, setting, "Sample size (select)")


def _ready(
    run: RunFolder,
    pair: ModelPair,
    prompts: TestPrompts | None,
    options: ValidateOptions | None,
) -> tuple[TestPrompts, ValidateOptions, dict[str, Ranking]]:
    """What is tested, after all that can be refused before anything is answered."""
    run.require("find")
    prompts = prompts or TestPrompts.builtin()
    options = options or ValidateOptions()
    require_same_models(run, pair)
    _refuse_seen(run, prompts)
    rankings_of(run, options.control_rankings)  # which refuses names of no ranking
    return prompts, options, rankings_of(run, options.rankings)


def _others(judges: Judges) -> list[str]:
    return [*(judge.name for judge in judges.others), *(judge.name for judge in judges.harm)]


def _refuse_seen(run: RunFolder, prompts: TestPrompts) -> None:
    found_on = load_prompts(run.result("find", COMPLETIONS))
    found_on = PromptSet(run.config("find")["prompts"]["name"], found_on.prompts)
    for tested in (prompts.select, prompts.test):
        refuse_overlap(found_on, tested)
    refuse_overlap(prompts.select, prompts.test)
    if "harmless" in run.config("find"):
        seen = load_prompts(run.result("find", HARMLESS_COMPLETIONS))
        seen = PromptSet(run.config("find")["harmless"]["name"], seen.prompts)
        refuse_overlap(seen, prompts.harmless)
