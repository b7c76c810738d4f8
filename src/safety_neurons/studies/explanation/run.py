"""Explain what a run's set does: detect harm, raise refusal, steer the output.

1. Both models answer; their answers say what refusals and compliances begin with.
2. The refusal direction is taken from prompts to find on, its layer and place chosen on `select`.
3. On test prompts: detection, mediation and steering of all units; those of the set that do more
   than units outside it have a stage.
4. Stages are knocked out and patched in.
5. The card is written to `explanation.json`, the direction beside it.
"""

from __future__ import annotations

from dataclasses import asdict

from safetensors.torch import save_file

from safety_neurons import defaults
from safety_neurons.errors import UserError
from safety_neurons.judges import Judge, judges_of
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import load_prompts
from safety_neurons.runs import COMPLETIONS, SUMMARY, RunFolder, read_summary, require_same_models
from safety_neurons.runs.explanation import (
    DIRECTION,
    EXPLANATION,
    ExplanationCard,
)
from safety_neurons.runs.neuronpages import PAGES, NeuronPages
from safety_neurons.storage import write_json, write_whole
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.corpus import Corpus
from safety_neurons.studies.explanation.keeping import Keeping
from safety_neurons.studies.explanation.options import SHARE, ExplainOptions, ExplanationPrompts
from safety_neurons.studies.explanation.pages import Refused, neuron_pages, units_named
from safety_neurons.studies.explanation.study import Study
from safety_neurons.studies.sets import rankings_of
from safety_neurons.units import Ranking, SiteKind

_LATER = ("controls", "pages", "tokens")
"""Options that decide nothing of what is measured of units, so that it is not measured again."""


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
        deciding = {name: value for name, value in config.items() if name not in _LATER}
        kept = Keeping.of(run.state("explain"), deciding, pair.identity)
        study = Study(evaluator, first.top(share), first, prompts, options, kept)
        card, direction = study.card(share)
        card = card.model_copy(update={"options": config})
        write_json(stage.file(EXPLANATION), card.written())
        saved = {"difference": direction.directions.difference.float().contiguous()}
        provenance = {
            "format": "safety-neurons/direction/1",
            "layer": str(direction.layer),
            "position": str(direction.position),
            "models": pair.identity,
            "harmful": prompts.found.digest,
            "harmless": prompts.found_harmless.digest,
            "chosen_on": prompts.select.digest,
        }
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
