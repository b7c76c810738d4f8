"""The models that a run was made on: the same ones again, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from safety_neurons.engine import Side
from safety_neurons.errors import UserError, gathered
from safety_neurons.models import LoadedModel, ModelPair, Source
from safety_neurons.models.identity import differences
from safety_neurons.models.pair import identity_of
from safety_neurons.runs.folder import DAMAGED, RunFolder
from safety_neurons.runs.manifest import LoadingRecord, ModelRecord

_SIDES = ("aligned", "unaligned")


def models_of(run: RunFolder) -> dict[str, ModelRecord]:
    """Both models, by side.

    Returns:
        What the manifest says of them.

    Raises:
        UserError: if it says nothing.
    """
    models = run.manifest.models
    if models is None or not all(side in models and models[side].source for side in _SIDES):
        raise UserError(f"'{run.manifest_file}' has no 'models'; {DAMAGED}.")
    return models


def loading_of(run: RunFolder) -> LoadingRecord:
    """How they were loaded.

    Returns:
        What the manifest says of it.

    Raises:
        UserError: if it says nothing.
    """
    if run.manifest.loading is None:
        raise UserError(f"'{run.manifest_file}' has no 'loading'; {DAMAGED}.")
    return run.manifest.loading


def reload_pair(
    run: RunFolder, *, dtype: torch.dtype = torch.float32, device: str | None = None
) -> ModelPair:
    """The pair that a run was made on, and no other.

    Returns:
        The pair, loaded from where it lies.

    Raises:
        UserError: if any file that decides what the models do has changed.
    """
    models, loading = models_of(run), loading_of(run)
    aligned, unaligned = (_source(models[side]) for side in _SIDES)
    pair = ModelPair.load(
        aligned,
        unaligned,
        dtype=dtype,
        device=device,
        trust_remote_code=loading.trust_remote_code,
        template_from=loading.template_from,
    )
    require_same_models(run, pair)
    return pair


def identity_in(run: RunFolder) -> str:
    """What the run's pair is, by content, without loading it.

    Returns:
        The pair's `identity`.

    Raises:
        UserError: if the run's manifest does not say what its models hold.
    """
    files = {side: _files(run, model) for side, model in models_of(run).items()}
    return identity_of(files, loading_of(run).template_from)


def source_of(run: RunFolder, side: Side) -> Source:
    """Where one side of the run's pair lies."""
    return _source(models_of(run)[side])


def require_same_model(run: RunFolder, side: Side, model: LoadedModel) -> None:
    """Demand that `model` is that side of the run's pair, to the last byte.

    Raises:
        UserError: naming files that differ.
    """  # noqa: DOC501
    if faults := _faults(run, side, models_of(run)[side], model.provenance):
        raise gathered(
            faults,
            headline=f"'{run.path}' was found on another model than this; what differs",
            remedy="Run `safety-neurons find` again in a new folder.",
        )


def _source(model: ModelRecord) -> Source:
    if model.location is None:  # format 1
        return Source.parse(model.source or "")
    return Source(model.location.base, model.location.adapter)


def require_same_models(run: RunFolder, pair: ModelPair) -> None:
    """Demand that `pair` is what the run was found on, to the last byte.

    Raises:
        UserError: naming files of either side that differ.
    """  # noqa: DOC501
    models, loading = models_of(run), loading_of(run)
    faults = [
        fault
        for side, now in pair.provenance.items()
        for fault in _faults(run, side, models[side], now)
    ]
    if loading.template_from != pair.loading["template_from"]:
        faults.append("the choice of --template-from")
    if faults:
        raise gathered(
            faults,
            headline=f"'{run.path}' was found on other models than these; what differs",
            remedy="Run `safety-neurons find` again in a new folder for these models.",
        )


def _faults(run: RunFolder, side: str, earlier: ModelRecord, now: Mapping[str, Any]) -> list[str]:
    changed = differences(_files(run, earlier), now["files"])
    return [f"{side}: {name} of '{now['source']}'" for name in changed]


def _files(run: RunFolder, model: ModelRecord) -> dict[str, str]:
    if model.files is None:
        raise UserError(
            f"'{run.path}' was made by an earlier version, which did not record what its "
            "models hold; run `safety-neurons find` again in a new folder."
        )
    return model.files
