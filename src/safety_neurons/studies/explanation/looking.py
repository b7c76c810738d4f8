"""Look at any units of a run, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safety_neurons import defaults
from safety_neurons.inference import Decoding
from safety_neurons.judges import Judge, judges_of
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import load_prompts
from safety_neurons.runs import COMPLETIONS, RunFolder, read_explanation, require_same_models
from safety_neurons.runs.explanation import StageName
from safety_neurons.runs.neuronpages import NeuronPages
from safety_neurons.storage import write_json
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.corpus import TOKENS, Corpus
from safety_neurons.studies.explanation.pages import Refused, neuron_pages, units_named
from safety_neurons.studies.fragility.options import MAX_NEW_TOKENS
from safety_neurons.studies.sets import rankings_of

FOLDER = "neurons"
"""Of a run, where pages of single units are."""
LIMIT = 64
"""The most harmful prompts in which refusals are looked for."""


def look(
    run: RunFolder,
    pair: ModelPair,
    names: Sequence[str],
    *,
    corpus: Path | None = None,
    tokens: int = TOKENS,
    limit: int | None = LIMIT,
    judge: Judge | str = defaults.JUDGE,
    progress: Progress | None = None,
) -> NeuronPages:
    """Look at units of a run's pair, and write `neurons/L12.N345.json` into it for each.

    Args:
        pair: of the run.
        names: of units, such as `L12.N345`.
        corpus: a text file to look for examples in; by default harmless prompts and answers.
        tokens: the most that each model reads of it.
        limit: of the harmful prompts that the run was found on, so many are looked at for refusals.
        judge: says which answers are refusals.

    Returns:
        A page for each name, in their order.

    Raises:
        UserError: if the run has no complete `find` or was made with other models, a name is of no
            unit, or the corpus cannot be read.
    """
    require_same_models(run, pair)
    rankings = rankings_of(run)
    space = next(iter(rankings.values())).space
    units = units_named(space, names)
    progress = progress or Silent()
    decoding = Decoding(MAX_NEW_TOKENS)
    evaluator = Evaluator.of_run(run, pair, judges_of(judge).first, decoding, progress)
    found = load_prompts(run.result("find", COMPLETIONS)).limited(limit)
    with run.writing():
        texts = (
            Corpus.builtin(evaluator, tokens=tokens)
            if corpus is None
            else Corpus.of_file(corpus, pair, tokens=tokens)
        )
        pages = neuron_pages(
            pair,
            rankings,
            units,
            texts,
            refused=Refused.by(evaluator, found),
            stages=_stages(run),
            progress=progress,
        )
        for page in pages.pages:
            file = page_file(run, page.unit, "json")
            file.parent.mkdir(exist_ok=True)
            write_json(file, pages.model_copy(update={"pages": [page]}).written())
    return pages


def page_file(run: RunFolder, unit: str, kind: str) -> Path:
    """Where a run keeps a unit's page: `json`, or `html`."""
    return run.file(FOLDER) / f"{unit}.{kind}"


def require_names(run: RunFolder, names: Sequence[str]) -> None:
    """Raise UserError unless each name is of a unit of the run; needs no model."""
    units_named(next(iter(rankings_of(run).values())).space, names)


def _stages(run: RunFolder) -> Mapping[str, list[StageName]] | None:
    """What the run's explained units do, by name; None where none were explained."""
    card = read_explanation(run)
    return None if card is None else {unit.unit: unit.stages for unit in card.neurons}
