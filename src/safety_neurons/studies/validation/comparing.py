"""Whether the chosen set does more than others, and how many prompts tell effects apart."""

from __future__ import annotations

from collections.abc import Mapping

from safety_neurons.inference import ALIGNED, UNALIGNED, Setting
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.summary import Comparison
from safety_neurons.significance import effect_difference, holm, prompts_needed
from safety_neurons.studies.validation.curve import Target
from safety_neurons.studies.validation.evaluator import Evaluator
from safety_neurons.studies.validation.measurements import ChosenSet
from safety_neurons.studies.validation.options import ValidateOptions
from safety_neurons.units import Ranking


def comparisons(
    evaluator: Evaluator,
    prompts: PromptSet,
    rankings: Mapping[str, Ranking],
    chosen: ChosenSet,
    options: ValidateOptions,
) -> list[Comparison]:
    """The chosen set's effect less that of each other share, and of its share by other rankings.

    Prompts are paired, and p-values corrected for how many are compared (Holm).

    Returns:
        One comparison for each other set.
    """
    others = {
        (name, share): ranking.top(share)
        for name, ranking in rankings.items()
        for share in options.tested_shares
        if (name == chosen.target.ranking) != (share == chosen.target.share)
    }
    a, u, own = (
        evaluator.judged(prompts, chosen.settings[name], name).refusals
        for name in ("aligned", "unaligned", "patched")
    )
    gap = [x - y for x, y in zip(a, u, strict=True)]
    found = {}
    for (name, share), units in others.items():
        setting = Target(name, share, units).settings[0]
        theirs = evaluator.judged(prompts, setting, name).refusals
        found[name, share] = effect_difference(own, theirs, gap, seed=options.seed)
    told = [key for key, difference in found.items() if difference.p is not None]
    corrected = dict(zip(told, holm([found[key].p or 0.0 for key in told]), strict=True))
    return [
        Comparison(
            ranking=name,
            share=share,
            difference=difference.effect.value,
            ci_low=difference.effect.ci_low,
            ci_high=difference.effect.ci_high,
            p=difference.p,
            p_holm=corrected.get((name, share)),
        )
        for (name, share), difference in found.items()
    ]


def needed(evaluator: Evaluator, prompts: PromptSet, setting: Setting, label: str) -> int | None:
    """How many prompts tell an effect of 0.9 from one of 0.8, by what these show."""
    p, a, u = (
        evaluator.judged(prompts, of, label).refusals for of in (setting, ALIGNED, UNALIGNED)
    )
    return prompts_needed(p, a, u)
