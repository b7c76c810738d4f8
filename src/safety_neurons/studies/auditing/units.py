"""The safety neurons of an audit: a run's, or those that the reference's own refusals rest on."""

from __future__ import annotations

from safety_neurons.engine import Role, Side
from safety_neurons.engine.rounding import distance
from safety_neurons.errors import UserError, gathered
from safety_neurons.inference import Setting
from safety_neurons.inference.probing import probe_logits
from safety_neurons.judges import Verdict
from safety_neurons.models import LoadedModel
from safety_neurons.models.identity import differences
from safety_neurons.prompts import Kind, Split, builtin
from safety_neurons.runs import SUMMARY, RunFolder, read_explanation, read_summary
from safety_neurons.runs.explanation import StageName
from safety_neurons.runs.models import loading_of, models_of, source_of
from safety_neurons.studies.auditing.drift import SafetyUnits
from safety_neurons.studies.auditing.options import FOUND_ON, SHARE
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.fragility.removals import Batches, Traced
from safety_neurons.studies.sets import rankings_of
from safety_neurons.units import UnitSet

MERGED = 0.01
"""Of the largest logit; what merging an adapter into weights of half precision may round."""


def require_reference(run: RunFolder, reference: LoadedModel) -> None:
    """Demand that the run's aligned model is the reference, or one that computes the same.

    An adapter that was merged into its base gives other files and the same model: that is shown by
    logits on a probe.

    Raises:
        UserError: naming files that differ.
    """  # noqa: DOC501
    aligned = models_of(run)[Side.ALIGNED]
    changed = differences(aligned.files or {}, reference.provenance["files"])
    if not changed or _computes_the_same(run, reference):
        return
    raise gathered(
        [f"{name} of '{reference.provenance['source']}'" for name in changed],
        headline=f"'{run.path}' was found on another model than the reference; what differs",
        remedy=f"Give the run's aligned model ({aligned.source}) as the reference, a merged form "
        "of it, or no run.",
    )


def _computes_the_same(run: RunFolder, reference: LoadedModel) -> bool:
    try:
        aligned = LoadedModel.load(
            source_of(run, Side.ALIGNED),
            dtype=reference.dtype,
            device=str(reference.device),
            trust_remote_code=loading_of(run).trust_remote_code,
        )
    except UserError:  # it is gone, or moved; so it cannot be shown
        return False
    if aligned.space() != reference.space():
        return False
    vocabulary = min(aligned.vocabulary, reference.vocabulary)
    given, wanted = (
        probe_logits(model, vocabulary=vocabulary)[..., :vocabulary]
        for model in (reference, aligned)
    )
    return distance(given, wanted) <= MERGED


def units_of_run(run: RunFolder, share: float | None, ranking: str | None) -> SafetyUnits:
    """The first neurons of one of a run's rankings.

    Args:
        share: by default what its validation chose, if it has one.

    Returns:
        The set, and what an explanation of the run says of it.

    Raises:
        UserError: if the run has no complete `find`, no such ranking, or the share is no neuron.
    """
    first = next(iter(rankings_of(run, None if ranking is None else [ranking]).values()))
    chosen = None
    if run.is_whole("validate") and run.file(SUMMARY).is_file():
        chosen = read_summary(run).chosen
    if share is None:
        share = chosen.share if chosen is not None and chosen.ranking == first.name else SHARE
    units = first.top(share)
    if not len(units):
        raise UserError(f"A share of {share:g} is no neuron at all; give a larger one.")
    return SafetyUnits(
        units,
        {"from": f"run {run.path.name}", "ranking": first.name, "share": share, "k": len(units)},
        _stages(run, units),
    )


def _stages(run: RunFolder, units: UnitSet) -> dict[str, UnitSet]:
    """Parts of the set by what an explanation says they do."""
    card = read_explanation(run)
    if card is None:
        return {}
    places = {name: i for i, name in enumerate(units.names)}
    found = {}
    for stage in StageName:
        inside = [places[u.unit] for u in card.of_part(stage) if u.unit in places]
        if inside:
            found[str(stage)] = UnitSet.of(units.flat[inside], units.space)
    return found


def units_found(evaluator: Evaluator, role: Role, share: float | None, seed: int) -> SafetyUnits:
    """What the reference's own refusals rest on, by ablation attribution; needs no sibling.

    Returns:
        The first of its neurons.

    Raises:
        UserError: if it refuses none of the prompts that neurons are found on.
    """
    share = SHARE if share is None else share
    harmful, harmless = (
        builtin(kind, Split.FIND).limited(FOUND_ON, seed=seed)
        for kind in (Kind.HARMFUL, Kind.HARMLESS)
    )
    setting = Setting(role)
    judged = evaluator.judged(harmful, setting, "Refusals to find neurons on")
    refused = [i for i, verdict in enumerate(judged.verdicts) if verdict is Verdict.REFUSAL]
    if not refused:
        raise UserError(
            f"The reference refuses none of {len(harmful)} harmful prompts, so it has no safety to "
            "lose; give the aligned model as --reference."
        )
    answers = evaluator.completions(harmful, setting, "Refusals to find neurons on")
    prompts = evaluator.encoded(harmful)

    def batches(prompts: list[list[int]], answers: list[list[int]]) -> Batches:
        plan = evaluator.decoding.batches(prompts, settings=8)
        return [([prompts[i] for i in b], [answers[i] for i in b]) for b in plan]

    ordinary = batches(
        evaluator.encoded(harmless), evaluator.completions(harmless, setting, "Harmless answers")
    )
    group = evaluator.group
    traced = Traced.of(
        group,
        role,
        group.space(),
        ordinary,
        batches(prompts, answers),
        batches([prompts[i] for i in refused], [answers[i] for i in refused]),
    )
    units = traced.ablation.top(share)
    if not len(units):
        raise UserError(f"A share of {share:g} is no neuron at all; give a larger one.")
    described = {
        "from": f"the reference's own refusals of {len(refused)} prompts",
        "ranking": traced.ablation.name,
        "share": share,
        "k": len(units),
    }
    return SafetyUnits(units, described, {})
