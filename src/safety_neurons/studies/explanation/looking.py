"""Look at any units of a run, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from safety_neurons import defaults
from safety_neurons.errors import UserError
from safety_neurons.inference import ALIGNED, Decoding
from safety_neurons.judges import Judge, Verdict, judges_of
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import load_prompts
from safety_neurons.runs import COMPLETIONS, RunFolder, read_explanation, require_same_models
from safety_neurons.runs.explanation import StageName
from safety_neurons.runs.neuronpages import NeuronPages
from safety_neurons.storage import write_json
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.corpus import TOKENS, Corpus
from safety_neurons.studies.explanation.pages import REFUSALS, Refused, neuron_pages
from safety_neurons.studies.fragility.options import MAX_NEW_TOKENS
from safety_neurons.studies.sets import rankings_of
from safety_neurons.units import UnitSpace

FOLDER = "neurons"
"""Of a run, where pages of single units are."""
LIMIT = 64
"""The most harmful prompts in which refusals are looked for."""
_NAME = re.compile(r"L(\d{1,9})\.([A-Z])(\d{1,9})")


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
            refused=_refused(run, evaluator, limit),
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


def units_named(space: UnitSpace, names: Sequence[str]) -> list[int]:
    """Units by their names.

    Returns:
        Flat positions in `space`, each once, in the order of the names.

    Raises:
        UserError: for the first name that is of no unit.
    """
    return [_place(space, name) for name in dict.fromkeys(names)]


def require_names(run: RunFolder, names: Sequence[str]) -> None:
    """Raise UserError unless each name is of a unit of the run; needs no model."""
    units_named(next(iter(rankings_of(run).values())).space, names)


def _place(space: UnitSpace, name: str) -> int:
    if found := _NAME.fullmatch(name):
        layer, letter, unit = int(found[1]), found[2], int(found[3])
        for block in space.blocks:
            named = (block.key.layer, block.key.site.letter) == (layer, letter)
            if named and unit < block.width:
                return space.slice_of(block.key).start + unit
    last = space.blocks[-1]
    first = space.blocks[0].key.name(0)
    raise UserError(
        f"'{name}' is no {last.key.site.units.removesuffix('s')} of this run, whose are "
        f"{first} to {last.key.name(last.width - 1)}; write a layer and a number, such as "
        f"{last.key.name(0)}."
    )


def _refused(run: RunFolder, evaluator: Evaluator, limit: int | None) -> Refused:
    """Prompts that the run was found on and its aligned model refuses."""
    found = load_prompts(run.result("find", COMPLETIONS)).limited(limit)
    verdicts = evaluator.judged(found, ALIGNED, "Refusals").verdicts
    answers = evaluator.completions(found, ALIGNED, "Refusals")
    encoded = evaluator.encoded(found)
    kept = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.REFUSAL][:REFUSALS]
    if not kept:
        evaluator.progress.note(
            f"The aligned model refuses none of {len(found)} harmful prompts, so nothing is said "
            "of what the units do to refusals."
        )
    return Refused([encoded[i] for i in kept], [answers[i] for i in kept])


def _stages(run: RunFolder) -> Mapping[str, list[StageName]] | None:
    """What the run's explained units do, by name; None where none were explained."""
    card = read_explanation(run)
    return None if card is None else {unit.unit: unit.stages for unit in card.neurons}
