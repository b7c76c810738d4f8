"""How far a validation's figures rest on the judge, and whether patched answers are language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from safety_neurons.errors import UserError
from safety_neurons.inference import UNALIGNED, perplexities
from safety_neurons.judges import HarmJudge, Judge, Judges, Verdict, harm_of, verdicts_on
from safety_neurons.judges.calibration import Calibration, Errors
from safety_neurons.judges.cues import states_inability
from safety_neurons.judges.readability import entropy, loops, repetition
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.record import effect_fields
from safety_neurons.runs.summary import (
    Coherence,
    Corrected,
    CorrectedRate,
    Counted,
    HarmEffect,
    JudgeChecks,
    OtherJudge,
)
from safety_neurons.statistics import (
    MIN_GAP,
    MIN_ROWS,
    RESAMPLES,
    Effect,
    Interval,
    cohens_kappa,
    mean_or_none,
    percentiles,
    ratio_of_means,
    share,
)
from safety_neurons.studies.evaluator import Evaluator, Judged
from safety_neurons.studies.validation.measurements import ChosenSet

_COMPARED = ("unaligned", "aligned", "patched")


def judge_checks(
    evaluator: Evaluator,
    prompts: PromptSet,
    chosen: ChosenSet,
    judges: Judges,
    calibration: Calibration | None,
    *,
    seed: int,
) -> JudgeChecks:
    """The chosen set's effect under other ways of counting, other judges, and known errors."""
    judged = {name: evaluator.judged(prompts, chosen.settings[name], name) for name in _COMPARED}
    verdicts = {name: of.verdicts for name, of in judged.items()}
    return JudgeChecks(
        otherwise=list(_otherwise(judged, seed)),
        corrected=None if calibration is None else _corrected(verdicts, calibration, seed),
        others=[_by(other, prompts, judged, seed) for other in judges.others],
        harm=[_harm(judge, prompts, judged, seed) for judge in judges.harm],
    )


def coherence(
    evaluator: Evaluator, prompts: PromptSet, chosen: ChosenSet
) -> Iterator[tuple[str, Coherence]]:
    """Repetition, entropy and perplexity of the answers under each of the chosen set's settings."""
    for name, setting in chosen.settings.items():
        completions = evaluator.completions(prompts, setting, name)
        try:
            found = perplexities(
                evaluator.group,
                evaluator.encoded(prompts),
                completions,
                {name: UNALIGNED},
                evaluator.decoding,
                progress=evaluator.progress,
                label=f"Coherence ({name})",
            )[name]
        except UserError:  # so unlikely that no number says how much: None, which is shown
            found = None
        yield (
            name,
            Coherence(
                repetition=mean_or_none([repetition(tokens) for tokens in completions]),
                entropy=mean_or_none([entropy(tokens) for tokens in completions]),
                perplexity=found,
            ),
        )


def _otherwise(judged: Mapping[str, Judged], seed: int) -> Iterator[Counted]:
    ways = {
        "partial": lambda verdict, _: verdict is Verdict.PARTIAL,
        "unscored": lambda verdict, _: verdict is Verdict.UNSCORED,
        "looping": lambda verdict, said: verdict is Verdict.REFUSAL and loops(said),
        "inability": lambda verdict, said: verdict is Verdict.REFUSAL and states_inability(said),
    }
    for name, counted_otherwise in ways.items():
        moved = {
            setting: [counted_otherwise(*p) for p in zip(of.verdicts, of.responses, strict=True)]
            for setting, of in judged.items()
        }
        if not any(map(any, moved.values())):
            continue
        refusals = {
            setting: [
                (verdict is Verdict.REFUSAL) != other
                for verdict, other in zip(of.verdicts, moved[setting], strict=True)
            ]
            for setting, of in judged.items()
        }
        effect = _ratio(refusals, seed)
        yield Counted(
            counting=name,
            answers=sum(map(sum, moved.values())),
            **effect_fields(effect),
        )


def _effect(verdicts: Mapping[str, Sequence[Verdict]], seed: int) -> Effect:
    return _ratio({name: [v is Verdict.REFUSAL for v in of] for name, of in verdicts.items()}, seed)


def _ratio(refusals: Mapping[str, Sequence[bool]], seed: int) -> Effect:
    unaligned, aligned, patched = (np.array(refusals[name], dtype=float) for name in _COMPARED)
    return ratio_of_means(patched - unaligned, aligned - unaligned, seed=seed)


def _by(judge: Judge, prompts: PromptSet, judged: Mapping[str, Judged], seed: int) -> OtherJudge:
    verdicts = {
        name: verdicts_on(judge, prompts.texts, of.responses) for name, of in judged.items()
    }
    first = [verdict for of in judged.values() for verdict in of.verdicts]
    second = [verdict for of in verdicts.values() for verdict in of]
    effect = _effect(verdicts, seed)
    return OtherJudge(
        judge=judge.name,
        disagrees=sum(a is not b for a, b in zip(first, second, strict=True)),
        answers=len(first),
        kappa=cohens_kappa(first, second),
        refusal_rates={name: of.count(Verdict.REFUSAL) / len(of) for name, of in verdicts.items()},
        **effect_fields(effect),
    )


def _harm(
    judge: HarmJudge, prompts: PromptSet, judged: Mapping[str, Judged], seed: int
) -> HarmEffect:
    """The share of the harm that the patch takes away, over prompts that it could tell thrice."""
    figures = {name: harm_of(judge, prompts.texts, of.responses) for name, of in judged.items()}
    told = [
        triple
        for triple in zip(*(figures[name] for name in _COMPARED), strict=True)
        if None not in triple
    ]
    unaligned, aligned, patched = np.array(told, dtype=float).reshape(-1, 3).T
    effect = ratio_of_means(unaligned - patched, unaligned - aligned, seed=seed)
    return HarmEffect(
        judge=judge.name,
        n=len(told),
        untold=len(prompts) - len(told),
        harm={
            name: float(of.mean())
            for name, of in zip(_COMPARED, (unaligned, aligned, patched), strict=True)
        }
        if told
        else {},
        **effect_fields(effect),
    )


def _corrected(
    verdicts: Mapping[str, Sequence[Verdict]], calibration: Calibration, seed: int
) -> Corrected:
    cancels = not calibration.differs(verdicts)
    effect = _effect(verdicts, seed) if cancels else _corrected_effect(verdicts, calibration, seed)
    rates = {
        name: calibration.on(name).corrected(share(list(of).count(Verdict.REFUSAL), len(of)))
        for name, of in verdicts.items()
    }
    return Corrected(
        labelled=calibration.n,
        refusal_rates={
            name: CorrectedRate(
                value=rate.value, n=rate.n, ci_low=rate.ci_low, ci_high=rate.ci_high
            )
            for name, rate in rates.items()
        },
        cancels=cancels,
        **effect_fields(effect),
    )


def _corrected_effect(
    verdicts: Mapping[str, Sequence[Verdict]], calibration: Calibration, seed: int
) -> Effect:
    """The ratio of differences of corrected rates.

    Its interval resamples prompts, the same for all settings, and draws each setting's sensitivity
    and specificity from what its labelled answers leave open (Jeffreys' posterior).

    Returns:
        The effect; its value is None as for any effect, and where a setting's errors were not
        measured or the judge does not tell refusals from other answers there.
    """
    rng = np.random.default_rng(seed)
    refusals = {
        name: np.array([v is Verdict.REFUSAL for v in verdicts[name]], dtype=float)
        for name in _COMPARED
    }
    n = len(refusals["unaligned"])
    rows = rng.integers(0, n, size=(RESAMPLES, n))
    whole, drawn = {}, {}
    for name, of in refusals.items():
        errors = calibration.on(name)
        se, sp = errors.sensitivity.value, errors.specificity.value
        if se is None or sp is None or se + sp <= 1:
            return Effect(None, n, None)
        whole[name] = (of.mean() + sp - 1) / (se + sp - 1)
        ses, sps = _draws(errors, rng)
        drawn[name] = (of[rows].mean(axis=1) + sps - 1) / (ses + sps - 1)
    gap = whole["aligned"] - whole["unaligned"]
    if n < MIN_ROWS or gap < MIN_GAP:
        return Effect(None, n, None)
    gaps = drawn["aligned"] - drawn["unaligned"]
    usable = (gaps > 0) & np.isfinite(drawn["patched"])
    interval: Interval | None = None
    if usable.mean() >= 0.99:
        interval = percentiles((drawn["patched"] - drawn["unaligned"])[usable] / gaps[usable])
    return Effect((whole["patched"] - whole["unaligned"]) / gap, n, interval)


def _draws(errors: Errors, rng: np.random.Generator) -> list[np.ndarray]:
    found = []
    for part in (errors.sensitivity, errors.specificity):
        hits = round((part.value or 0.0) * part.n)
        found.append(rng.beta(hits + 0.5, part.n - hits + 0.5, size=RESAMPLES))
    return found
