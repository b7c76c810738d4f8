"""Whether the chosen set does more than others, and how many prompts tell effects apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from safety_neurons.inference import ALIGNED, UNALIGNED, Setting
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.summary import N90_EFFECT, Comparison, ShareInterval
from safety_neurons.significance import effect_difference, holm, lasting_from, prompts_needed
from safety_neurons.statistics import mean_or_none
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.validation.curve import Target
from safety_neurons.studies.validation.measurements import ChosenSet
from safety_neurons.studies.validation.options import ValidateOptions
from safety_neurons.units import Ranking
from safety_neurons.units.overlap import iou


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


def n90_intervals(
    evaluator: Evaluator,
    prompts: PromptSet,
    rankings: Mapping[str, Ranking],
    options: ValidateOptions,
) -> dict[str, ShareInterval]:
    """How far each ranking's N90 depends on the prompts.

    Returns:
        By ranking; without those that have no effects.
    """
    a, u = (evaluator.judged(prompts, of, "N90").refusals for of in (ALIGNED, UNALIGNED))
    shares, found = options.tested_shares, {}
    for name, ranking in rankings.items():
        settings = [Target(name, share, ranking.top(share)).settings[0] for share in shares]
        patched = [evaluator.judged(prompts, setting, "N90").refusals for setting in settings]
        bounds = lasting_from(patched, a, u, shares, N90_EFFECT, seed=options.seed)
        if bounds is not None:
            found[name] = ShareInterval(low=bounds[0], high=bounds[1])
    return found


def ceiling_alike(
    evaluator: Evaluator, prompts: PromptSet, rankings: Mapping[str, Ranking]
) -> int | None:
    """With all units patched, how many answers are the aligned model's own, token by token.

    Returns:
        How many of the prompts; all of them where the models differ in nothing else.
    """
    name, ranking = next(iter(rankings.items()))
    (everything,) = Target(name, 1.0, ranking.top(1.0)).settings
    pairs = zip(
        evaluator.completions(prompts, everything, "ceiling"),
        evaluator.completions(prompts, ALIGNED, "ceiling"),
        strict=True,
    )
    return sum(one == other for one, other in pairs)


def control_overlap(chosen: ChosenSet) -> float | None:
    """How much two of the chosen set's random sets share on average; None without two."""
    found = [iou(one, other) for one, other in itertools.combinations(chosen.target.controls, 2)]
    return mean_or_none(found)


def needed(evaluator: Evaluator, prompts: PromptSet, setting: Setting, label: str) -> int | None:
    """How many prompts tell an effect of 0.9 from one of 0.8, by what these show."""
    p, a, u = (
        evaluator.judged(prompts, of, label).refusals for of in (setting, ALIGNED, UNALIGNED)
    )
    return prompts_needed(p, a, u)
