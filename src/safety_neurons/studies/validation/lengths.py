"""Effects where answers are cut after fewer or more tokens: models also refuse late."""

from __future__ import annotations

from collections.abc import Sequence

from safety_neurons.prompts import PromptSet
from safety_neurons.runs.record import effect_fields
from safety_neurons.runs.summary import LengthEffect
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.validation.curve import effect_of
from safety_neurons.studies.validation.measurements import ChosenSet
from safety_neurons.studies.validation.options import LENGTH_PROMPTS, ValidateOptions


def lengths(
    evaluator: Evaluator, prompts: PromptSet, chosen: ChosenSet, options: ValidateOptions
) -> list[LengthEffect]:
    """The chosen set's effect where answers are cut after fewer or more tokens.

    The longest answers are written once; the shorter ones are their beginnings.

    Returns:
        One effect a length, the shortest first; none where no lengths are asked for.
    """
    if not options.lengths:
        return []
    first = PromptSet(prompts.name, prompts.prompts[:LENGTH_PROMPTS])
    longest = evaluator.writing(max(options.lengths))
    names = ("unaligned", "aligned", "patched")
    longest.prepare(first, [chosen.settings[name] for name in names], "Longer answers")
    refused: dict[int, dict[str, list[float]]] = {
        length: {
            name: longest.judged(first, chosen.settings[name], name, cut=length).refusals
            for name in names
        }
        for length in sorted(options.lengths)
    }
    shortest = refused[min(options.lengths)]
    found = []
    for length, of in refused.items():
        patched = chosen.settings["patched"]
        effect = effect_of(longest, first, patched, "patched", cut=length, seed=options.seed)
        found.append(
            LengthEffect(
                tokens=length,
                n=len(first),
                refusal_rates={name: sum(of[name]) / len(first) for name in names},
                later={name: _more(of[name], shortest[name]) for name in names},
                no_longer={name: _more(shortest[name], of[name]) for name in names},
                **effect_fields(effect),
            )
        )
    return found


def _more(these: Sequence[float], those: Sequence[float]) -> int:
    return sum(x > y for x, y in zip(these, those, strict=True))
