"""Apply: a run's aligned model with its first units amplified, as an ordinary checkpoint.

1. The live model is measured with and without the intervention; a drop in refusals is refused.
2. The checkpoint is written shard by shard: adapter, then intervention, each tensor cast once.
3. What was written is loaded again and compared with the live model, before it gets its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons import defaults
from safety_neurons.engine import ALONE, PairedRows, Side, input_axis
from safety_neurons.environment import environment
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, texts_of
from safety_neurons.inference.decoding import edits_of, left_padded
from safety_neurons.interventions import Scale
from safety_neurons.judges import Judge, Verdict, judges_of, verdicts_on
from safety_neurons.models import LoadedModel
from safety_neurons.models.exporting import Edited, export, stored_dtype
from safety_neurons.models.proofs import probe_tokens
from safety_neurons.models.sources import resolve
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, Kind, PromptSet, Split, builtin
from safety_neurons.runs import RunFolder
from safety_neurons.runs.models import loading_of, require_same_model, source_of
from safety_neurons.storage import write_json, write_text
from safety_neurons.studies.applying.record import RECORD, AppliedRecord, Kept
from safety_neurons.studies.sets import top_units
from safety_neurons.units import UnitSet

_EXACT = {torch.float32: 1e-5, torch.float64: 1e-9}
"""The largest difference from the live model, as a part of the largest logit, by precision."""


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote, and where."""

    folder: Path
    record: AppliedRecord


def apply_scale(
    run: RunFolder,
    out: str | Path,
    scale: float,
    share: float,
    ranking: str | None = None,
    *,
    prompts: PromptSet | None = None,
    judge: Judge | str = defaults.JUDGE,
    decoding: Decoding | None = None,
    command: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Write the run's aligned model with its first units amplified.

    Args:
        out: a folder that does not exist yet.
        scale: by what their activations are multiplied, 1 or more; 1 writes the merged model.
        share: how many units, of all that the run ranked.
        ranking: by default the run's primary one.
        prompts: harmful ones to measure refusals on; by default the built-in split `select`.
        command: what was typed.

    Returns:
        Where it is, and what stands beside it.

    Raises:
        UserError: for a scale below 1 or that is no finite number, if `out` exists, the run's model
            has changed, its checkpoint cannot be changed, or fewer harmful prompts are refused.
        InterventionError: if what was written is not what the live model does.
    """
    if not (math.isfinite(scale) and scale >= 1):
        raise UserError(
            f"Scales of 1 or more strengthen a model, but {scale:g} was given; to see what "
            "weakening does, use `intervene` on the model in memory."
        )
    if Path(out).exists():
        raise UserError(f"'{out}' exists already; name another folder.")
    progress = progress or Silent()
    units = top_units(run, share, ranking)
    source, code = source_of(run, Side.ALIGNED), loading_of(run).trust_remote_code
    resolved = resolve(source, trust_remote_code=code)
    stored = stored_dtype(resolved)
    model = LoadedModel.load(
        source,
        dtype=torch.promote_types(stored, torch.float32),
        device=device,
        trust_remote_code=code,
    )
    require_same_model(run, Side.ALIGNED, model)
    intervention = Scale(units, scale)
    refusals = None
    if scale != 1:
        chat = ChatFormat.of_config(run.config("find"))
        asked = prompts or builtin(Kind.HARMFUL, Split.SELECT)
        refusals = _refusals(
            model, intervention, asked, chat, judge, decoding or Decoding(), progress
        )
    kept, edits = Kept(), _edits(model, units, scale)
    places = {name: (columns, axis) for name, (columns, axis, _) in edits.items()}

    def seen(edited: Edited) -> None:
        kept.add(edited, *places[edited.parameter])

    records: list[AppliedRecord] = []

    def beside(folder: Path) -> None:
        written = LoadedModel.load(str(folder), dtype=stored, device=device, trust_remote_code=code)
        difference = _difference(model, intervention, written)
        if difference > _EXACT.get(stored, math.inf):
            raise InterventionError(
                f"What was written differs from the live model by {difference:.1e} of the largest "
                "logit, so it was not kept."
            )
        record = AppliedRecord(
            intervention=intervention.describe(),
            units={name: columns.tolist() for name, (columns, _) in places.items()},
            model=model.provenance,
            provenance=units.provenance,
            refusals=refusals,
            difference=difference,
            dtype=str(stored).removeprefix("torch."),
            command=command,
            environment=environment(),
            tensors=kept.tensors,
        )
        kept.write(folder)
        write_json(folder / RECORD, record.written())
        write_text(folder / "README.md", _card(record, str(source)))
        records.append(record)

    folder = export(
        resolved,
        out,
        {name: edit for name, (_, _, edit) in edits.items()} if scale != 1 else {},
        seen=seen,
        beside=beside,
        trust_remote_code=code,
    )
    return Applied(folder, records[0])


@dataclass(frozen=True)
class _Scaled:
    columns: Tensor
    axis: int
    factor: float

    def __call__(self, weight: Tensor) -> Tensor:
        part = weight.index_select(self.axis, self.columns) * self.factor
        return weight.index_copy(self.axis, self.columns, part)


def _edits(
    model: LoadedModel, units: UnitSet, factor: float
) -> dict[str, tuple[Tensor, int, _Scaled]]:
    """Of each projection that reads units of the set: their coordinates, the axis, the edit."""
    found = {}
    for site in model.hooked.sites:
        if site.key in units.space and len(columns := units.in_block(site.key)):
            axis = input_axis(site.module)
            found[f"{site.name}.weight"] = (columns, axis, _Scaled(columns, axis, factor))
    return found


def _refusals(
    model: LoadedModel,
    intervention: Scale,
    prompts: PromptSet,
    chat: ChatFormat,
    judge: Judge | str,
    decoding: Decoding,
    progress: Progress,
) -> dict[str, float]:
    """Rates of refusals before and after; UserError where they drop."""
    first = judges_of(judge).first
    encoded = encode_prompts(model, prompts, decoding, chat)
    settings = [Setting(), Setting(interventions=(intervention,))]
    answers = answer(
        model, encoded, settings, decoding, progress=progress, label="Refusals before and after"
    )
    counts = [
        verdicts_on(first, prompts.texts, texts_of(model, of, chat)).count(Verdict.REFUSAL)
        for of in answers
    ]
    before, after = (count / len(prompts) for count in counts)
    if after < before:
        raise UserError(
            f"With these units times {intervention.factor:g} the model refuses {after:.0%} of "
            f"{len(prompts)} harmful prompts where it refused {before:.0%}, so nothing was "
            "written; try a smaller scale or another share."
        )
    return {"before": before, "after": after, "n": len(prompts)}


@torch.no_grad()
def _difference(live: LoadedModel, intervention: Scale, written: LoadedModel) -> float:
    """The largest difference of logits on a probe, as a part of the largest."""
    tokens = probe_tokens(live.vocabulary).tolist()
    expected = _logits(live, Setting(interventions=(intervention,)), tokens).double().cpu()
    found = _logits(written, Setting(), tokens).double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def _logits(
    model: LoadedModel, setting: Setting, tokens: Sequence[Sequence[int]]
) -> Float[Tensor, "row pos vocab"]:
    read = left_padded(tokens, model)
    edits = edits_of([setting], ALONE, model.device)
    with PairedRows(model, {ALONE: len(tokens)}, edits=edits) as rows:
        return rows.forward({ALONE: read}, logits=len(tokens[0]))[ALONE]


def _card(record: AppliedRecord, source: str) -> str:
    """The README of the folder."""
    what = record.intervention
    changed = sum(len(columns) for columns in record.units.values())
    lines = [
        "# A model changed by safety-neurons",
        "",
        f"`{source}` as one plain checkpoint ({record.dtype})."
        if what["factor"] == 1
        else f"`{source}` as one plain checkpoint ({record.dtype}) in which the activations of "
        f"{changed:,} neurons are multiplied by {what['factor']:g}, by the columns of the "
        "projections that read them.",
        "",
    ]
    if record.refusals:
        before, after, n = (record.refusals[key] for key in ("before", "after", "n"))
        lines += [
            f"Harmful prompts refused: {before:.0%} before, {after:.0%} after (of {n:.0f}). What "
            "it does to harmless prompts was not measured here.",
            "",
        ]
    lines += [
        f"`{RECORD}` says which neurons, from which run and by which command; "
        "`safety-neurons undo` gives the model back as it was before, bit for bit.",
        "",
    ]
    return "\n".join(lines)
