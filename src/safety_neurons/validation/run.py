"""Validate: prove by patching that a few neurons carry the refusals.

1. Both models answer the harmful prompts (select and test), the harmless and the
   borderline ones.
2. On select: the effect of every share of every ranking; the set is chosen there.
3. On test: the same curves with matched random sets, the ceiling (share 1), N90.
4. On test, for the chosen set: necessity, and what the patch does to harmless prompts.
5. Write summary.json and samples.jsonl.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from safety_neurons.artifacts import RunFolder, write_json, write_jsonl
from safety_neurons.finding.completions import FILE as COMPLETIONS
from safety_neurons.finding.run import TABLE, require_same_models
from safety_neurons.judges import Judge, RefusalJudge
from safety_neurons.models import ModelPair
from safety_neurons.neurons import read_table
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, PromptSet, load_prompts, refuse_overlap
from safety_neurons.validation.examination import Examination
from safety_neurons.validation.measurements import Measurements
from safety_neurons.validation.options import TestPrompts, ValidateOptions

SUMMARY = "summary.json"
SAMPLES = "samples.jsonl"


def validate(
    run: RunFolder,
    pair: ModelPair,
    prompts: TestPrompts | None = None,
    options: ValidateOptions | None = None,
    *,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the run's rankings on `pair` and write its summary.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if the run has no complete `find`, was made with other models, or was
            found on prompts that are tested now.
    """
    run.require("find")
    prompts = prompts or TestPrompts.builtin()
    options = options or ValidateOptions()
    progress = progress or Silent()
    judge = judge or RefusalJudge()
    require_same_models(run, pair)
    for note in pair.notes:
        progress.note(note)
    _refuse_seen(run, prompts)
    rankings = read_table(run.result("find", TABLE))
    config = {
        **asdict(options),
        "prompts": prompts.describe(),
        "dtype": str(pair.dtype).removeprefix("torch."),
        "judge": judge.name,
    }
    with run.stage("validate", config, [SUMMARY, SAMPLES], read_by=["report"]) as stage:
        chat = ChatFormat.of_config(run.config("find"))
        exam = Examination(pair, judge, options.decoding, chat, run, progress)
        measured = Measurements(exam, prompts, options, rankings)
        summary = measured.summary()
        write_jsonl(stage.file(SAMPLES), measured.samples())
        found_in = run.manifest["stages"]["find"]["seconds"]
        summary["seconds"] = {"find": found_in, "validate": stage.elapsed()}
        write_json(stage.file(SUMMARY), summary)
    return summary


def _refuse_seen(run: RunFolder, prompts: TestPrompts) -> None:
    found_on = load_prompts(run.result("find", COMPLETIONS))
    found_on = PromptSet(run.config("find")["prompts"]["name"], found_on.prompts)
    for tested in (prompts.select, prompts.test):
        refuse_overlap(found_on, tested)
    refuse_overlap(prompts.select, prompts.test)
