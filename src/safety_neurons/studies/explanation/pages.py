"""Single units looked at closely: what they read and write, where they are active, what they do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from safety_neurons import defaults
from safety_neurons.engine import Role, Side
from safety_neurons.errors import UserError
from safety_neurons.inference import ALIGNED
from safety_neurons.inference.refusal_odds import changed_log_odds
from safety_neurons.interventions import Scale
from safety_neurons.judges import Verdict
from safety_neurons.methods.examples import KEPT, Activity, Document, Peaks, activity
from safety_neurons.methods.lens import NEIGHBOURS, TokenReading, Weighed, alike, readings
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.explanation import StageName
from safety_neurons.runs.neuronpages import (
    Example,
    Examples,
    Neighbour,
    NeuronPage,
    NeuronPages,
    Reading,
    ScaledEffect,
    TokenWeight,
)
from safety_neurons.statistics import mean_interval
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.corpus import Corpus
from safety_neurons.units import Ranking, UnitSet, UnitSpace

_NAME = re.compile(r"L(\d{1,9})\.([A-Z])(\d{1,9})")
FACTORS = (0.0, 2.0, -1.0)
"""What a unit is multiplied by: taken away, doubled, turned round."""
REFUSALS = 16
"""The most refusals whose log-odds are measured."""
_ROOM = 2**26
"""Activations that are held at once while texts are read: 256 MiB in float32."""
_BEFORE, _AFTER = 30, 12
"""Tokens of a text that are shown around one of them."""


@dataclass(frozen=True)
class Refused:
    """Prompts that the aligned model refuses, and its own refusals of them, as token ids."""

    prompts: Sequence[Sequence[int]]
    refusals: Sequence[Sequence[int]]

    @classmethod
    def none(cls) -> Refused:
        """Those of a model that refuses nothing: no effect is measured."""
        return cls((), ())

    @classmethod
    def by(cls, evaluator: Evaluator, prompts: PromptSet) -> Refused:
        """Of some prompts the first REFUSALS that the aligned model refuses.

        Returns:
            Nothing where there is none, which is noted.
        """
        verdicts = evaluator.judged(prompts, ALIGNED, "Refusals").verdicts
        answers = evaluator.completions(prompts, ALIGNED, "Refusals")
        encoded = evaluator.encoded(prompts)
        kept = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.REFUSAL][:REFUSALS]
        if not kept:
            evaluator.progress.note(
                f"The aligned model refuses none of {len(prompts)} harmful prompts, so nothing is "
                "said of what the units do to refusals."
            )
        return cls([encoded[i] for i in kept], [answers[i] for i in kept])

    def __len__(self) -> int:
        return len(self.prompts)


def neuron_pages(
    pair: ModelPair,
    rankings: Mapping[str, Ranking],
    units: Sequence[int],
    corpus: Corpus,
    *,
    refused: Refused | None = None,
    stages: Mapping[str, list[StageName]] | None = None,
    seed: int = defaults.SEED,
    progress: Progress | None = None,
) -> NeuronPages:
    """Look at some units of a pair.

    Args:
        rankings: of a run, all of one space; at least one.
        units: flat positions in that space, each once.
        corpus: what both models read for examples and for co-activation.
        refused: for the effect of scaled units, of which the first REFUSALS are read.
        stages: what units of an explained set do, by name.
        seed: of the bootstrap.

    Returns:
        A page for each unit, in their order. Readings, neighbours and effects are the aligned
        model's.

    Raises:
        UserError: if activations are no finite numbers, or the model cannot be read so.
    """
    progress = progress or Silent()
    space = next(iter(rankings.values())).space
    aligned = pair.sides[Side.ALIGNED]
    known = min(len(pair.tokenizer), pair.vocabulary)
    read = readings(aligned, space, units, tokens=known)
    nearest = alike(aligned, space, units)
    found = _activities(pair, corpus.documents, space, units, progress)
    together = _together(found[Side.ALIGNED], units)
    refused = refused or Refused.none()
    effects = _effects(pair, space, units, refused, seed, progress)
    names = space.names_of(torch.tensor(units))

    def neighbours(those: Weighed) -> list[Neighbour]:
        named = space.names_of(torch.tensor([unit for unit, _ in those], dtype=torch.long))
        values = [value for _, value in those]
        return [Neighbour(unit=n, value=v) for n, v in zip(named, values, strict=True)]

    pages = [
        NeuronPage(
            unit=name,
            ranks={of: int(ranking.ranks[unit]) + 1 for of, ranking in rankings.items()},
            stages=None if stages is None else stages.get(name),
            readings=[_reading(pair, reading) for reading in read[i]],
            examples=[
                Examples(
                    model=str(role),
                    highest=_examples(pair, corpus.documents, of_role.highest, i),
                    lowest=_examples(pair, corpus.documents, of_role.lowest, i, sign=-1.0),
                )
                for role, of_role in found.items()
            ],
            by_cosine=neighbours(nearest[i]),
            by_activation=neighbours(together[i]),
            scaled=effects[i],
        )
        for i, (unit, name) in enumerate(zip(units, names, strict=True))
    ]
    return NeuronPages(
        corpus=corpus.described,
        tokens=corpus.tokens,
        refusals=min(len(refused), REFUSALS),
        pages=pages,
    )


def units_named(space: UnitSpace, names: Sequence[str]) -> list[int]:
    """Units by their names.

    Returns:
        Flat positions in `space`, each once, in the order of the names.

    Raises:
        UserError: for the first name that is of no unit.
    """
    return [_place(space, name) for name in dict.fromkeys(names)]


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


def _activities(
    pair: ModelPair,
    documents: Sequence[Document],
    space: UnitSpace,
    units: Sequence[int],
    progress: Progress,
) -> dict[Role, Activity]:
    """What both models' units do on all documents."""
    found: dict[Role, Activity] = {side: Activity.zero(space, len(units)) for side in Side}
    batches = _batches(documents, _ROOM // (space.total * len(Side)))
    for batch in progress.track(batches, "Reading texts"):
        for role, sums in activity(pair, batch, space, units).items():
            found[role] += sums
    for role, sums in found.items():
        if not bool(torch.isfinite(sums.squares).all()):
            raise UserError(
                f"Activations of the {role} model are no finite numbers; run it in float32."
            )
    return found


def _batches(documents: Sequence[Document], positions: int) -> list[list[Document]]:
    """Documents of similar length together, with at most so many positions, or one alone."""
    found: list[list[Document]] = []
    for document in sorted(documents, key=lambda each: (len(each.tokens), each.number)):
        # The longest comes last, and all others are padded to it.
        if found and (len(found[-1]) + 1) * len(document.tokens) <= positions:
            found[-1].append(document)
        else:
            found.append([document])
    return found


def _together(sums: Activity, units: Sequence[int]) -> list[Weighed]:
    """For each unit, those whose activations go most with its own, or against it."""
    r = sums.correlations(units)
    r[torch.arange(len(units)), torch.tensor(units)] = 0
    nearest = r.abs().topk(min(NEIGHBOURS, r.shape[1] - 1), dim=1).indices
    return [
        list(zip(at.tolist(), values.tolist(), strict=True))
        for at, values in zip(nearest, r.gather(1, nearest), strict=True)
    ]


def _effects(
    pair: ModelPair,
    space: UnitSpace,
    units: Sequence[int],
    refused: Refused,
    seed: int,
    progress: Progress,
) -> list[list[ScaledEffect]]:
    """What each unit times each of FACTORS does to refusals; nothing where there are none."""
    if not len(refused):
        return [[] for _ in units]
    alone = [UnitSet.of(torch.tensor([unit]), space) for unit in units]
    changes = changed_log_odds(
        pair,
        Side.ALIGNED,
        refused.prompts[:REFUSALS],
        refused.refusals[:REFUSALS],
        [Scale(unit, factor) for unit in alone for factor in FACTORS],
        progress,
        label="Scaled units",
    )
    found = [
        ScaledEffect(
            factor=FACTORS[i % len(FACTORS)],
            log_odds=float(of_prompts.mean()),
            ci_low=interval.low if interval else None,
            ci_high=interval.high if interval else None,
        )
        for i, of_prompts in enumerate(changes)
        for interval in [mean_interval(of_prompts.tolist(), seed=seed)]
    ]
    return [found[i : i + len(FACTORS)] for i in range(0, len(found), len(FACTORS))]


def _reading(pair: ModelPair, reading: TokenReading) -> Reading:
    def worded(tokens: Weighed) -> list[TokenWeight]:
        return [TokenWeight(token=_word(pair, token), value=value) for token, value in tokens]

    return Reading(of=reading.of, highest=worded(reading.highest), lowest=worded(reading.lowest))


def _word(pair: ModelPair, token: int) -> str:
    """A token alone as text; a part of a character as the tokenizer writes it."""
    text = _text(pair, [token])
    written = str(pair.tokenizer.convert_ids_to_tokens(token))
    if not text or "\ufffd" in text:
        return written
    # Some tokenizers drop the space in front of what they decode.
    return f" {text}" if written.startswith("▁") and not text.startswith(" ") else text


def _text(pair: ModelPair, tokens: Sequence[int]) -> str:
    return str(pair.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def _examples(
    pair: ModelPair, documents: Sequence[Document], peaks: Peaks, unit: int, *, sign: float = 1.0
) -> list[Example]:
    """The places of one unit, with the text around them."""
    by_number = {document.number: document for document in documents}
    return [
        _example(pair, by_number[number], position, sign * value)
        for value, number, position in peaks.of(unit)[:KEPT]
    ]


def _example(pair: ModelPair, document: Document, position: int, value: float) -> Example:
    start = max(document.begins, position - _BEFORE)
    stop = position + 1 + _AFTER
    tokens = document.tokens
    before, upto, whole = (_text(pair, tokens[start:end]) for end in (position, position + 1, stop))
    if whole.startswith(upto) and upto.startswith(before):
        token, after = upto[len(before) :], whole[len(upto) :]
    else:  # a character of several tokens ends inside
        token, after = _word(pair, tokens[position]), _text(pair, tokens[position + 1 : stop])
    return Example(
        before=f"…{before}" if start > document.begins else before,
        token=token,
        after=f"{after}…" if stop < len(tokens) else after,
        value=value,
    )
