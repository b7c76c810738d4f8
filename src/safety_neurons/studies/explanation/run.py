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
from safety_neurons.runs.summary import Chosen
from safety_neurons.storage import write_json, write_whole
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.corpus import Corpus
from safety_neurons.studies.explanation.options import (
    LIMIT,
    SHARE,
    ExplainOptions,
    ExplanationPrompts,
)
from safety_neurons.studies.explanation.pages import Refused, neuron_pages, units_named
from safety_neurons.studies.explanation.study import Study
from safety_neurons.studies.keeping import Keeping
from safety_neurons.studies.sets import rankings_of
from safety_neurons.units import SiteKind

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
    chosen = _chosen(run)
    if ranking is None and options.share is None and chosen is not None:
        ranking = chosen.ranking
    first = next(iter(rankings_of(run, None if ranking is None else [ranking]).values()))
    if first.space.kinds != (SiteKind.MLP,):
        raise UserError(
            f"'{run.path}' ranks {first.space.kinds[0].units}, and what is explained are neurons; "
            "run `find` without --site."
        )
    if prompts is None:
        found = load_prompts(run.result("find", COMPLETIONS))
        most = LIMIT if limit is None else limit
        prompts = ExplanationPrompts.builtin(most, found=found, seed=options.seed)
    judging = judges_of(judge).first
    validated = chosen.share if chosen is not None and chosen.ranking == first.name else SHARE
    share = options.share or validated
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
        units, chat = first.top(share), evaluator.chat.describe(pair.tokenizer)
        kept = Keeping.of(run.state("explain"), deciding, pair.identity, units.key, chat)
        # First what can be wrong with it is told, before anything long is measured.
        corpus = Corpus.builtin(evaluator, tokens=options.tokens) if options.pages else None
        study = Study(evaluator, units, first, prompts, options, kept)
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
        pages = _pages(run, evaluator, card, prompts, corpus, options)
        write_json(stage.file(PAGES), pages.written())
    return card


def _pages(
    run: RunFolder,
    evaluator: Evaluator,
    card: ExplanationCard,
    prompts: ExplanationPrompts,
    corpus: Corpus | None,
    options: ExplainOptions,
) -> NeuronPages:
    """The first units of the set looked at closely; none without a corpus."""
    rankings = rankings_of(run)
    space = next(iter(rankings.values())).space
    shown = card.neurons[: options.pages]
    if corpus is None or not isinstance(evaluator.group, ModelPair):
        return NeuronPages(corpus="none", tokens=0, pages=[])
    return neuron_pages(
        evaluator.group,
        rankings,
        units_named(space, [unit.unit for unit in shown]),
        corpus,
        refused=Refused.by(evaluator, prompts.found),
        stages={unit.unit: unit.stages for unit in card.neurons},
        seed=options.seed,
        progress=evaluator.progress,
    )


def _chosen(run: RunFolder) -> Chosen | None:
    """What the run's validation chose."""
    whole = run.is_whole("validate") and run.file(SUMMARY).is_file()
    return read_summary(run).chosen if whole else None
