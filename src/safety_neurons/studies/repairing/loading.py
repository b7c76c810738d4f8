"""Both models of a repair in memory as plain ones, whose weights can be changed in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_neurons.models import LoadedModel, Source
from safety_neurons.models.exporting import export
from safety_neurons.models.sources import Resolved, resolve
from safety_neurons.runs import RunFolder
from safety_neurons.studies.auditing.sides import Sides
from safety_neurons.studies.auditing.units import require_reference
from safety_neurons.studies.repairing.options import RepairOptions

ALIGNED, CANDIDATE = "aligned", "candidate"


@dataclass(frozen=True)
class RepairModels:
    """The aligned model and the fine-tune, each with its own tokenizer.

    Args:
        provenance: of both, as they were named, as manifests describe models.
        identity: of both, by content, before adapters were merged.
        resolved: where the candidate lies, to write it anew.
        notes: what was found while loading, and what differs between the two.
    """

    aligned: LoadedModel
    candidate: LoadedModel
    provenance: Mapping[str, dict[str, Any]]
    identity: tuple[str, str]
    resolved: Resolved
    notes: tuple[str, ...]

    @classmethod
    def load(
        cls, sides: Sides, run: RunFolder, options: RepairOptions, state: Path
    ) -> RepairModels:
        """Load both; adapters are merged by way of the disk.

        Args:
            state: where merged models are kept.

        Returns:
            Two models without adapters.

        Raises:
            UserError: if one cannot be loaded or merged, or the run is of another model.
        """
        plain, provenance, identities, notes = {}, {}, [], list(sides.notes)
        for name, source in ((ALIGNED, sides.reference), (CANDIDATE, sides.candidate)):
            model = _loaded(source, options)
            provenance[name] = model.provenance
            identities.append(model.identity)
            notes += [f"{name.capitalize()}: {note}" for note in model.notes]
            if name == ALIGNED:
                require_reference(run, model)
            if source.adapter is not None:
                folder = state / f"{name}-{model.identity[:12]}"
                del model  # before the merged one is loaded
                model = _merged(source, folder, options)
            plain[name] = model
        return cls(
            plain[ALIGNED],
            plain[CANDIDATE],
            provenance,
            (identities[0], identities[1]),
            resolve(sides.candidate, trust_remote_code=options.trust_remote_code),
            tuple(notes),
        )


def _loaded(source: str | Source, options: RepairOptions) -> LoadedModel:
    return LoadedModel.load(
        source,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
    )


def _merged(source: Source, folder: Path, options: RepairOptions) -> LoadedModel:
    """The model with its adapter in its weights; the folder's name says what they are."""
    code = options.trust_remote_code
    if not folder.is_dir():
        export(resolve(source, trust_remote_code=code), folder, trust_remote_code=code)
    return _loaded(str(folder), options)
