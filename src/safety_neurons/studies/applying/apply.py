"""Apply: a model with some of its units amplified or transplanted, as an ordinary checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.interventions import Scale, Transplant, require_units
from safety_neurons.models import LoadedModel, Source
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat
from safety_neurons.runs import RunFolder
from safety_neurons.runs.models import loading_of, require_same_model, source_of
from safety_neurons.studies.applying.writing import Applied, ApplyOptions, Job, Target
from safety_neurons.studies.sets import top_units
from safety_neurons.units import UnitSet


def apply_scale(
    run: RunFolder,
    out: str | Path,
    scale: float,
    share: float,
    ranking: str | None = None,
    options: ApplyOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Applied:
    """Write the run's aligned model with its first units amplified.

    Args:
        out: a folder that does not exist yet.
        scale: by what their activations are multiplied, 1 or more; 1 writes the merged model.
        share: how many units, of all that the run ranked.
        ranking: by default the run's primary one.

    Returns:
        Where it is, and what stands beside it.

    Raises:
        UserError: for a scale below 1 or that is no finite number, if `out` exists, the run's model
            has changed, its checkpoint cannot be changed, or fewer harmful prompts are refused.
        InterventionError: if what was written is not what the live model does.
    """
    _require_strengthening(scale)
    _require_new(out)
    options = _as_the_run(run, options)
    units = top_units(run, share, ranking)
    source, code = source_of(run, Side.ALIGNED), loading_of(run).trust_remote_code
    target = Target.of(source, options, code=code)
    require_same_model(run, Side.ALIGNED, target.model)
    return _scaled(target, units, scale, out, options, progress)


def apply_scale_to(
    model: str | Source,
    units: UnitSet,
    out: str | Path,
    scale: float,
    options: ApplyOptions | None = None,
    *,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Applied:
    """As `apply_scale`, of one model and a set, such as one of a file.

    Raises:
        UserError: as `apply_scale`, or if the set is of another model.
        InterventionError: as `apply_scale`.
    """  # noqa: DOC201
    _require_strengthening(scale)
    _require_new(out)
    options = options or ApplyOptions()
    target = Target.of(model, options, code=trust_remote_code)
    require_units([Scale(units, scale)], target.model.space)
    return _scaled(target, units, scale, out, options, progress)


def apply_transplant(
    run: RunFolder,
    recipient: str | Source,
    out: str | Path,
    share: float,
    ranking: str | None = None,
    options: ApplyOptions | None = None,
    *,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Applied:
    """Write `recipient` with the first units' weights of the run's aligned model.

    Args:
        recipient: a model of the same family and size, such as a fine-tune that lost its refusals.

    Returns:
        Where it is, and what stands beside it.

    Raises:
        UserError: as `apply_scale`, or if nothing would change, or the models do not fit.
        InterventionError: as `apply_scale`.
    """
    _require_new(out)
    options = _as_the_run(run, options)
    units = top_units(run, share, ranking)
    target = Target.of(recipient, options, code=trust_remote_code)
    donor = LoadedModel.load(
        source_of(run, Side.ALIGNED),
        dtype=target.model.dtype,
        device=options.device,
        trust_remote_code=loading_of(run).trust_remote_code,
    )
    require_same_model(run, Side.ALIGNED, donor)
    transplant = Transplant.between(donor.hooked, target.model.hooked, units)
    return Job(
        target,
        transplant,
        transplant.slices(target.model.hooked),
        options,
        progress or Silent(),
        donor=donor.provenance,
    ).write(out)


def _scaled(
    target: Target,
    units: UnitSet,
    factor: float,
    out: str | Path,
    options: ApplyOptions,
    progress: Progress | None,
) -> Applied:
    intervention = Scale(units, factor)
    edits = {} if factor == 1 else intervention.slices(target.model.hooked)
    return Job(target, intervention, edits, options, progress or Silent()).write(out)


def _require_strengthening(scale: float) -> None:
    if not (math.isfinite(scale) and scale >= 1):
        raise UserError(
            f"Scales of 1 or more strengthen a model, but {scale:g} was given; to see what "
            "weakening does, use `intervene` on the model in memory."
        )


def _require_new(out: str | Path) -> None:
    if Path(out).exists():
        raise UserError(f"'{out}' exists already; name another folder.")


def _as_the_run(run: RunFolder, options: ApplyOptions | None) -> ApplyOptions:
    options = options or ApplyOptions()
    chat = options.chat or ChatFormat.of_config(run.config("find"))
    return replace(options, chat=chat)
