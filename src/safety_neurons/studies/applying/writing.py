"""A model with some of its weights changed, measured, written and compared.

1. The live model is measured with and without the intervention; a drop in refusals is refused.
2. The checkpoint is written shard by shard: adapter, then intervention, each tensor cast once.
3. What was written is loaded again and compared with the live model, before it gets its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from safety_neurons import defaults
from safety_neurons.engine.rounding import ALLOWED, distance
from safety_neurons.engine.sites import holding
from safety_neurons.environment import environment
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.figures import percent
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, texts_of
from safety_neurons.inference.probing import probe_logits
from safety_neurons.interventions import Scale, Transplant
from safety_neurons.interventions.slices import Slices
from safety_neurons.judges import Judge, Verdict, judges_of, verdicts_on
from safety_neurons.models import LoadedModel, Source
from safety_neurons.models.exporting import Edited, export, stored_dtype
from safety_neurons.models.sources import Resolved, resolve
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, Kind, PromptSet, Split, builtin
from safety_neurons.storage import write_json, write_text
from safety_neurons.studies.applying.record import RECORD, AppliedRecord, Kept


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote, and where."""

    folder: Path
    record: AppliedRecord


@dataclass(frozen=True)
class ApplyOptions:
    """How refusals are measured, and what is written beside the weights.

    Args:
        prompts: harmful ones to measure refusals on; by default the built-in split `select`.
        chat: how they are written; by default as the run wrote its own.
        command: what was typed.
    """

    prompts: PromptSet | None = None
    chat: ChatFormat | None = None
    judge: Judge | str = defaults.JUDGE
    decoding: Decoding = field(default_factory=Decoding)
    command: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Target:
    """The model that is changed: as it lies on disk, and in memory.

    Args:
        stored: the precision of its files.
        code: whether code that comes with it may run.
    """

    resolved: Resolved
    model: LoadedModel
    stored: torch.dtype
    code: bool

    @classmethod
    def of(cls, source: str | Source, options: ApplyOptions, *, code: bool) -> Target:
        source = Source.parse(source) if isinstance(source, str) else source
        resolved = resolve(source, trust_remote_code=code)
        stored = stored_dtype(resolved)
        wide = torch.promote_types(stored, torch.float32)
        model = LoadedModel.load(source, dtype=wide, device=options.device, trust_remote_code=code)
        return cls(resolved, model, stored, code)


@dataclass(frozen=True)
class Job:
    """One intervention, and what it does to tensors of the merged checkpoint.

    Args:
        edits: by the names of the model's parameters; none writes the merged model.
        donor: whose weights these are, as manifests describe models.
    """

    target: Target
    intervention: Scale | Transplant
    edits: Mapping[str, Slices]
    options: ApplyOptions
    progress: Progress
    donor: dict[str, Any] | None = None

    def write(self, out: str | Path) -> Applied:
        """Measure, write, compare, and give the folder its name."""
        target, intervention, options = self.target, self.intervention, self.options
        model = target.model
        refusals = self._refusals() if self.edits else None
        kept = Kept()

        def seen(edited: Edited) -> None:
            edit = self.edits[edited.parameter]
            kept.add(edited, edit.index, edit.axis)

        records: list[AppliedRecord] = []

        def beside(folder: Path) -> None:
            written = LoadedModel.load(
                str(folder),
                dtype=target.stored,
                device=options.device,
                trust_remote_code=target.code,
            )
            difference = _difference(model, intervention, written)
            if difference > ALLOWED.get(target.stored, math.inf):
                raise InterventionError(
                    f"What was written differs from the live model by {difference:.1e} of the "
                    "largest logit, so it was not kept."
                )
            record = AppliedRecord(
                intervention=intervention.describe(),
                units={
                    site.name: columns.tolist()
                    for site, columns in holding(model.hooked.sites, intervention.units)
                },
                model=model.provenance,
                donor=self.donor,
                provenance=intervention.units.provenance,
                refusals=refusals,
                difference=difference,
                dtype=str(target.stored).removeprefix("torch."),
                command=options.command,
                environment=environment(),
                tensors=kept.tensors,
            )
            kept.write(folder)
            write_json(folder / RECORD, record.written())
            write_text(folder / "README.md", _card(record))
            records.append(record)

        folder = export(
            target.resolved,
            out,
            self.edits,
            seen=seen,
            beside=beside,
            trust_remote_code=target.code,
        )
        return Applied(folder, records[0])

    def _refusals(self) -> dict[str, float]:
        """Rates of refusals before and after; UserError where they drop."""
        options, model = self.options, self.target.model
        first, chat = judges_of(options.judge).first, options.chat or ChatFormat()
        prompts = options.prompts or builtin(Kind.HARMFUL, Split.SELECT)
        encoded = encode_prompts(model, prompts, options.decoding, chat)
        settings = [Setting(), Setting(interventions=(self.intervention,))]
        answers = answer(
            model,
            encoded,
            settings,
            options.decoding,
            progress=self.progress,
            label="Refusals before and after",
        )
        counts = [
            verdicts_on(first, prompts.texts, texts_of(model, of, chat)).count(Verdict.REFUSAL)
            for of in answers
        ]
        before, after = (count / len(prompts) for count in counts)
        if after < before:
            raise UserError(
                f"With these units {_done(self.intervention.describe())} the model refuses "
                f"{percent(after)} of {len(prompts)} harmful prompts where it refused "
                f"{percent(before)}, so nothing was written; try {_remedy(self.intervention)}."
            )
        return {"before": before, "after": after, "n": len(prompts)}


def _done(described: dict[str, Any]) -> str:
    """What was done to units, behind the word `units`."""
    if described["intervention"] == "transplant":
        return "transplanted"
    return f"times {described['factor']:g}"


def _remedy(intervention: Scale | Transplant) -> str:
    if isinstance(intervention, Transplant):
        return "another share or recipient"
    return "a smaller scale or another share"


def _difference(live: LoadedModel, intervention: Scale | Transplant, written: LoadedModel) -> float:
    """The largest difference of logits on a probe, as a part of the largest."""
    expected = probe_logits(live, Setting(interventions=(intervention,)))
    return distance(probe_logits(written, vocabulary=live.vocabulary), expected)


def _card(record: AppliedRecord) -> str:
    """The README of the folder."""
    what, source = record.intervention, record.model["source"]
    changed = sum(len(columns) for columns in record.units.values())
    plain = f"`{source}` as one plain checkpoint ({record.dtype})"
    if what["intervention"] == "transplant":
        donor = (record.donor or {}).get("source", "another model")
        said = (
            f"{plain} in which {changed:,} neurons have the weights of `{donor}`: the rows of the "
            "projections that make them, and the columns of the one that reads them."
        )
    elif what["factor"] == 1:
        said = f"{plain}."
    else:
        said = (
            f"{plain} in which the activations of {changed:,} neurons are multiplied by "
            f"{what['factor']:g}, by the columns of the projections that read them."
        )
    lines = ["# A model changed by safety-neurons", "", said, ""]
    if record.refusals:
        before, after, n = (record.refusals[key] for key in ("before", "after", "n"))
        lines += [
            f"Harmful prompts refused: {percent(before)} before, {percent(after)} after "
            f"(of {n:.0f}). What it does to harmless prompts was not measured here.",
            "",
        ]
    lines += [
        f"`{RECORD}` says which neurons, from which run and by which command; "
        "`safety-neurons undo` gives the model back as it was before, bit for bit.",
        "",
    ]
    return "\n".join(lines)
