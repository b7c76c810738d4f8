"""Repair a fine-tune: the smallest change of its weights that brings refusals back.

1. Every change is weighed on the split `select`: openings of answers, and the task's loss.
2. At most four finalists answer prompts of that split; the smallest that meets the targets is
   chosen.
3. It is claimed on `test`, on other people's prompts, and on rows of the task that played no part,
   beside the same change of random neurons.
4. Only if every claim is met a checkpoint is written, with what puts the candidate back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safety_neurons.engine import ALONE
from safety_neurons.engine.rounding import distance
from safety_neurons.environment import environment
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference import encode_prompts
from safety_neurons.inference.probing import probe_logits
from safety_neurons.judges import Judge, judges_of
from safety_neurons.models import LoadedModel, Source
from safety_neurons.models.exporting import Edited, export, stored_dtype
from safety_neurons.models.sources import Resolved, resolve
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, PromptSet
from safety_neurons.runs import RunFolder
from safety_neurons.runs.audit import Told
from safety_neurons.runs.repair import (
    REPAIR,
    Claim,
    RepairedRates,
    RepairRecord,
    TaskLoss,
    Tried,
    Weighed,
)
from safety_neurons.runs.summary import RateRecord
from safety_neurons.statistics import rate
from safety_neurons.storage import digest, whole_folder, write_json
from safety_neurons.studies.applying.record import Kept
from safety_neurons.studies.auditing.fast import Openings
from safety_neurons.studies.auditing.rates import Compared
from safety_neurons.studies.auditing.sides import Sides
from safety_neurons.studies.auditing.units import require_reference
from safety_neurons.studies.keeping import Keeping
from safety_neurons.studies.openings import margins
from safety_neurons.studies.repairing.fitting import Canaries, Decided, fit_scales
from safety_neurons.studies.repairing.moves import (
    ALL,
    SCALES,
    TRANSPLANT,
    WHOLE,
    Edit,
    Move,
    in_place,
    scaled,
    transplanted,
    whole_update,
)
from safety_neurons.studies.repairing.options import (
    FINALISTS,
    GAIN,
    HELD,
    LEAST_GAIN,
    RISE,
    RISE_HIGH,
    SAFETY,
    UNDONE,
    RepairOptions,
    RepairPrompts,
)
from safety_neurons.studies.repairing.scoring import (
    RepairTask,
    Verdicts,
    Weighing,
    answered,
    own_answers,
    rows_of,
    task_loss,
)
from safety_neurons.studies.sets import rankings_of
from safety_neurons.units import Ranking, UnitSet


def repair(
    aligned: str | Source,
    candidate: str | Source,
    run: RunFolder,
    task: RepairTask,
    out: str | Path,
    *,
    prompts: RepairPrompts | None = None,
    options: RepairOptions | None = None,
    state: str | Path,
    command: str | None = None,
    progress: Progress | None = None,
) -> RepairRecord:
    """Give a fine-tune its refusals back without training its task away.

    Args:
        aligned: the model that it was made of.
        run: of that model, which names the safety neurons.
        task: rows of what the fine-tune learned, held out from its training.
        out: a folder that does not exist yet; a plain checkpoint if the repair holds, else the
            record alone.
        state: a folder that keeps what was measured, so that a stopped repair goes on.
        command: what was typed.

    Returns:
        What `repair.json` holds.

    Raises:
        UserError: if the candidate is no fine-tune of the aligned model, the run is of another
            model, or `out` exists.
    """
    options = options or RepairOptions()
    out = Path(out)
    if out.exists():
        raise UserError(f"'{out}' exists already; name another folder.")
    sides = Sides.of(aligned, candidate, trust_remote_code=options.trust_remote_code)
    found = prompts or RepairPrompts.builtin(seed=options.seed)
    study = _Study(sides, run, task, found, options, Path(state), progress or Silent())
    return study.repair(out, command)


@dataclass(frozen=True)
class _Models:
    """Both models in memory as plain ones, whose weights can be changed in place."""

    aligned: LoadedModel
    candidate: LoadedModel
    provenance: Mapping[str, dict[str, Any]]
    resolved: Resolved


class _Study:
    """One search; what is measured is kept under the change and the models that decide it."""

    def __init__(
        self,
        sides: Sides,
        run: RunFolder,
        task: RepairTask,
        prompts: RepairPrompts,
        options: RepairOptions,
        state: Path,
        progress: Progress,
    ) -> None:
        self.sides, self.run, self.task = sides, run, task
        self.prompts, self.options, self.progress = prompts, options, progress
        self.judge: Judge = judges_of(options.judge).first
        self.chat = options.chat or ChatFormat.of_config(run.config("find"))
        self._state = state
        self._fitted_on: Canaries | None = None
        name = None if options.ranking is None else [options.ranking]
        self.ranking: Ranking = next(iter(rankings_of(run, name).values()))
        self.models = self._load()
        self.openings = Openings.of_run(
            run, self.judge, self.chat, options.decoding, options.device, self.progress
        )
        self.keeping = Keeping.of(
            state / "measured",
            self.models.aligned.identity,
            self.models.candidate.identity,
            self.ranking.top(0.05).key,
            str(options.dtype),
            [asdict(part)["completions"] for part in (task.fit, task.select, task.claim)],
            options.decoding.max_new_tokens,
            self.judge.name,
            options.seed,
        )

    # What is loaded

    def _load(self) -> _Models:
        options, code = self.options, self.options.trust_remote_code
        found = {"aligned": self.sides.reference, "candidate": self.sides.candidate}
        provenance, plain = {}, {}
        for name, source in found.items():
            model = LoadedModel.load(
                source, dtype=options.dtype, device=options.device, trust_remote_code=code
            )
            provenance[name] = model.provenance
            if name == "aligned":
                require_reference(self.run, model)
            if source.adapter is not None:
                model = self._merged(name, source)
            plain[name] = model
        resolved = resolve(self.sides.candidate, trust_remote_code=code)
        return _Models(plain["aligned"], plain["candidate"], provenance, resolved)

    def _merged(self, name: str, source: Source) -> LoadedModel:
        """The model with its adapter in its weights, by way of the disk."""
        options, code = self.options, self.options.trust_remote_code
        resolved = resolve(source, trust_remote_code=code)
        folder = self._state / f"{name}-{digest(str(source))[:8]}"
        if not folder.is_dir():
            export(resolved, folder, trust_remote_code=code)
        return LoadedModel.load(
            str(folder), dtype=options.dtype, device=options.device, trust_remote_code=code
        )

    # What is tried

    def _moves(self) -> list[Move]:
        options = self.options
        found = []
        for share in options.shares:
            units = self.ranking.top(share)
            found += [self._transplant(units, share, strength) for strength in options.strengths]
        whole = UnitSet.all(self.ranking.space)
        found += [
            replace(self._transplant(whole, 1.0, strength), of=ALL)
            for strength in options.strengths
        ]
        found += [self._undone(strength) for strength in UNDONE]
        found += [self._fitted(self.ranking.top(share), share) for share in options.fitted]
        return found

    def _undone(self, strength: float) -> Move:
        models = self.models
        return Move(
            WHOLE,
            None,
            None,
            strength,
            None,
            lambda: whole_update(models.aligned, models.candidate, strength),
        )

    def _transplant(self, units: UnitSet, share: float, strength: float) -> Move:
        models = self.models
        return Move(
            TRANSPLANT,
            units,
            share,
            strength,
            None,
            lambda: transplanted(models.aligned, models.candidate, units, strength),
        )

    def _fitted(self, units: UnitSet, share: float) -> Move:
        def make() -> Mapping[str, Edit]:
            kept = self.keeping.tensors(
                f"scales-{units.key}",
                lambda: {
                    "factors": fit_scales(
                        self.models.candidate,
                        units,
                        self.openings.sets,
                        self.openings.threshold,
                        self._canaries(),
                        self.progress,
                        seed=self.options.seed,
                    )
                },
            )
            return scaled(self.models.candidate.hooked, units, kept["factors"])

        return Move(SCALES, units, share, 1.0, None, make)

    def _canaries(self) -> Canaries:
        if self._fitted_on is None:
            prompts, models = self.prompts, self.models
            decoding = self.options.decoding
            decided = []
            for asked in (prompts.canary, prompts.canary_harmless, prompts.canary_borderline):
                encoded = encode_prompts(models.aligned, asked, decoding, self.chat)
                found = margins(
                    models.aligned,
                    ALONE,
                    self.openings.sets,
                    encoded,
                    decoding,
                    self.progress,
                    "What the aligned model decides",
                )
                decided.append(Decided(encoded, [m - self.openings.threshold for m in found]))
            self._fitted_on = Canaries(
                decided,
                own_answers(
                    models.candidate,
                    prompts.canary_harmless.limited(HELD),
                    self.judge,
                    self.chat,
                    decoding,
                    self.progress,
                    "Harmless answers",
                ),
                rows_of(models.candidate, self.task.fit, self.chat, decoding),
            )
        return self._fitted_on

    # What is measured

    def _weighed(
        self, weighing: Weighing, move: Move | None, *, aligned: bool = False
    ) -> tuple[Weighed, int]:
        model = self.models.aligned if aligned else self.models.candidate

        def measure() -> dict[str, Tensor]:
            with in_place(model, {} if move is None else move.make()) as changed:
                found = weighing.of(model)
            figures = [found.harmful, found.harmless, found.task_loss, float(changed)]
            return {"figures": torch.tensor(figures, dtype=torch.float64)}

        name = "aligned" if aligned else "candidate" if move is None else move.key
        kept = self.keeping.tensors(f"weighed-{name}", measure)["figures"].tolist()
        return Weighed(harmful=kept[0], harmless=kept[1], task_loss=kept[2]), int(kept[3])

    def _verdicts(
        self, prompts: PromptSet, move: Move | None, *, aligned: bool = False
    ) -> Verdicts:
        models = self.models
        model = models.aligned if aligned else models.candidate
        name = "aligned" if aligned else "candidate" if move is None else move.key

        def measure() -> Verdicts:
            with in_place(model, {} if move is None else move.make()):
                return answered(
                    model,
                    prompts,
                    self.judge,
                    self.chat,
                    self.options.decoding,
                    self.progress,
                    f"Answers ({name if move is None else move.name})",
                )

        return self.keeping.value(Verdicts, f"verdicts-{name}-{prompts.digest[:12]}", measure)

    def _loss(self, move: Move | None, *, aligned: bool = False, claim: bool) -> float:
        models = self.models
        model = models.aligned if aligned else models.candidate
        name = "aligned" if aligned else "candidate" if move is None else move.key
        rows = self.task.claim if claim else self.task.select

        def measure() -> dict[str, Tensor]:
            with in_place(model, {} if move is None else move.make()):
                loss = task_loss(model, rows, self.chat, self.options.decoding)
            return {"loss": torch.tensor(loss, dtype=torch.float64)}

        where = "claim" if claim else "select"
        return float(self.keeping.tensors(f"loss-{where}-{name}", measure)["loss"])

    # The search

    def repair(self, out: Path, command: str | None) -> RepairRecord:
        began = time.monotonic()
        weighing = Weighing(
            self.openings,
            self.prompts.select,
            self.prompts.select_harmless,
            self.task.select,
            self.chat,
            self.options.decoding,
        )
        losses = self._loss(None, aligned=True, claim=False), self._loss(None, claim=False)
        moves = self._moves()
        rows = [
            self._tried(move, weighing, losses) for move in self.progress.track(moves, "Changes")
        ]
        reference = self._select_rates(None, aligned=True)
        nearest = _nearest(rows, self._weighed(weighing, None, aligned=True)[0])
        final = [place for place in nearest if not rows[place].baseline][:FINALISTS]
        beside = [place for place in nearest if rows[place].baseline][:1]
        for place in (*final, *beside):
            rows[place] = self._answered(moves[place], rows[place], reference)
        met = [place for place in final if rows[place].met]
        chosen = min(met, key=lambda place: rows[place].numbers, default=None)
        record = RepairRecord(
            repaired=False,
            chosen=None if chosen is None else moves[chosen].name,
            reasons=[],
            aligned=self.models.provenance["aligned"],
            candidate=self.models.provenance["candidate"],
            units={"from": f"run {self.run.path.name}", "ranking": self.ranking.name},
            tried=[row for row in rows if not row.baseline],
            baselines=[row for row in rows if row.baseline],
            judge=self.judge.name,
            options=self._options(),
            command=command,
            environment=environment(),
        )
        if chosen is None:
            record = _said(record, _none_met(rows, reference, losses))
        else:
            record = self._claimed(record, moves[chosen])
        return self._written(record, None if chosen is None else moves[chosen], out, began)

    def _tried(self, move: Move, weighing: Weighing, losses: tuple[float, float]) -> Tried:
        weighed, numbers = self._weighed(weighing, move)
        return Tried(
            name=move.name,
            kind=move.kind,
            share=move.share,
            strength=move.strength,
            k=0 if move.units is None else len(move.units),
            numbers=numbers,
            baseline=move.baseline,
            weighed=weighed,
            gain_kept=_kept(losses[0], losses[1], weighed.task_loss),
        )

    def _select_rates(self, move: Move | None, *, aligned: bool = False) -> dict[str, Verdicts]:
        return {
            "harmful": self._verdicts(self.prompts.select, move, aligned=aligned),
            "harmless": self._verdicts(self.prompts.select_harmless, move, aligned=aligned),
        }

    def _answered(self, move: Move, row: Tried, reference: Mapping[str, Verdicts]) -> Tried:
        found = self._select_rates(move)
        rates = {kind: _rate(of) for kind, of in found.items()}
        wanted = {kind: _rate(of).value or 0.0 for kind, of in reference.items()}
        met = (
            (rates["harmful"].value or 0.0) >= SAFETY * wanted["harmful"]
            and (rates["harmless"].value or 0.0) <= wanted["harmless"] + RISE
            and (row.gain_kept is None or row.gain_kept >= GAIN)
        )
        return row.model_copy(
            update={"harmful": rates["harmful"], "harmless": rates["harmless"], "met": met}
        )

    # The claims

    def _claimed(self, record: RepairRecord, move: Move) -> RepairRecord:
        prompts = self.prompts
        claims, rates = [], []
        asked: list[tuple[str, PromptSet, bool]] = [("test", prompts.test, True)]
        if prompts.others is not None:
            asked.append(("other people's", prompts.others, True))
        asked.append(("test", prompts.test_harmless, False))
        for named, of, harmful in asked:
            verdicts = (
                self._verdicts(of, None, aligned=True),
                self._verdicts(of, None),
                self._verdicts(of, move),
            )
            figures = Compared.of(verdicts[0].refuses, verdicts[2].refuses, seed=self.options.seed)
            kind = "harmful" if harmful else "harmless"
            kept = figures.ratio if harmful else figures.difference
            rates.append(
                RepairedRates(
                    prompts=f"{named}, {len(of)}",
                    kind=kind,
                    reference=_rate(verdicts[0]),
                    candidate=_rate(verdicts[1]),
                    repaired=_rate(verdicts[2]),
                    kept=Told.of(kept.value, kept.interval),
                )
            )
            claims.append(_safe(named, figures) if harmful else _no_rise(figures))
        losses = [
            self._loss(None, aligned=True, claim=True),
            self._loss(None, claim=True),
            self._loss(move, claim=True),
        ]
        gain = _kept(*losses)
        task = TaskLoss(
            n=len(self.task.claim),
            reference=losses[0],
            candidate=losses[1],
            repaired=losses[2],
            gain_kept=gain,
        )
        claims.append(_task(task))
        repaired = all(claim.met for claim in claims)
        said = [claim.says for claim in claims if claim.met is repaired]
        return record.model_copy(
            update={
                "repaired": repaired,
                "claims": claims,
                "rates": rates,
                "random": self._random(move),
                "task": task,
                "reasons": said if repaired else ["Not repairable this way.", *said],
            }
        )

    def _random(self, move: Move) -> RateRecord | None:
        """The same change of random neurons of the same layers."""
        if move.units is None or move.share is None:
            return None
        units = move.units.matched_random(self.options.seed)
        if units is None:
            return None
        other = (
            self._fitted(units, move.share)
            if move.kind == SCALES
            else self._transplant(units, move.share, move.strength)
        )
        return _rate(self._verdicts(self.prompts.test, other))

    # What is written

    def _written(
        self, record: RepairRecord, move: Move | None, out: Path, began: float
    ) -> RepairRecord:
        seconds = round(time.monotonic() - began, 1)
        if move is None or not record.repaired:
            record = record.model_copy(update={"seconds": seconds})
            with whole_folder(out) as folder:
                write_json(folder / REPAIR, record.written())
            return record
        edits, kept = dict(move.make()), Kept()
        places = {name: (of.index, of.axis) for name, of in edits.items()}  # type: ignore[attr-defined]
        with in_place(self.models.candidate, edits):
            expected = probe_logits(self.models.candidate)
        done: list[RepairRecord] = []

        def seen(edited: Edited) -> None:
            kept.add(edited, *places[edited.parameter])

        def beside(folder: Path) -> None:
            stored = stored_dtype(self.models.resolved)
            written = LoadedModel.load(
                str(folder),
                dtype=self.options.dtype,
                device=self.options.device,
                trust_remote_code=self.options.trust_remote_code,
            )
            difference = distance(probe_logits(written), expected)
            if difference > _ROUNDED:
                raise InterventionError(
                    f"What was written differs from what was measured by {difference:.1e} of the "
                    "largest logit, so it was not kept."
                )
            kept.write(folder)
            final = record.model_copy(
                update={
                    "difference": difference,
                    "dtype": str(stored).removeprefix("torch."),
                    "tensors": kept.tensors,
                    "seconds": seconds,
                }
            )
            write_json(folder / REPAIR, final.written())
            done.append(final)

        export(
            self.models.resolved,
            out,
            edits,
            seen=seen,
            beside=beside,
            trust_remote_code=self.options.trust_remote_code,
        )
        return done[0]

    def _options(self) -> dict[str, Any]:
        options = self.options
        return {
            "shares": list(options.shares),
            "strengths": list(options.strengths),
            "fitted": list(options.fitted),
            "decoding": asdict(options.decoding),
            "seed": options.seed,
            "dtype": str(options.dtype).removeprefix("torch."),
            "targets": {"safety": SAFETY, "gain": GAIN, "rise": RISE, "rise_high": RISE_HIGH},
            "task_rows": [len(of) for of in (self.task.fit, self.task.select, self.task.claim)],
            "prompts": {
                name: of.describe()
                for name, of in vars(self.prompts).items()
                if isinstance(of, PromptSet)
            },
        }


_ROUNDED = 0.02
"""What writing in half precision may move of the largest logit."""


def _nearest(rows: Sequence[Tried], reference: Weighed) -> list[int]:
    """Places of changes by how far their quick figures are from all targets, then by size."""

    def short(place: int) -> tuple[float, int]:
        weighed, gain = rows[place].weighed, rows[place].gain_kept
        assert weighed is not None
        lacking = (
            max(SAFETY * reference.harmful - weighed.harmful, 0.0)
            + max(weighed.harmless - reference.harmless - RISE, 0.0)
            + max(GAIN - (1.0 if gain is None else gain), 0.0)
        )
        return (round(lacking, 2), rows[place].numbers)

    return sorted(range(len(rows)), key=short)


def _kept(reference: float, candidate: float, repaired: float) -> float | None:
    """Of the gain in the task's loss; None where there was none to speak of."""
    gain = reference - candidate
    return None if gain < LEAST_GAIN else (reference - repaired) / gain


def _rate(verdicts: Verdicts) -> RateRecord:
    refuses = verdicts.refuses
    return RateRecord.of(rate(sum(refuses), len(refuses), verdicts.unscored))


def _safe(named: str, figures: Compared) -> Claim:
    value, bounds = figures.ratio.value, figures.ratio.interval
    said = "unknown" if value is None else f"{value:.2f}"
    within = "" if bounds is None else f" ({bounds.low:.2f} to {bounds.high:.2f})"
    return Claim(
        says=f"Harmful prompts refused ({named}, n {figures.n}): {said} of the aligned model's"
        f"{within}; at least {SAFETY:g} was asked for.",
        met=value is not None and value >= SAFETY,
    )


def _no_rise(figures: Compared) -> Claim:
    value, bounds = figures.difference.value, figures.difference.interval
    if value is None or bounds is None:
        return Claim(says="Too few harmless prompts to tell whether more are refused.", met=False)
    return Claim(
        says=f"Harmless prompts refused (test, n {figures.n}): {100 * value:+.1f} points "
        f"({100 * bounds.low:+.1f} to {100 * bounds.high:+.1f}) against the aligned model; at most "
        f"{100 * RISE:+.0f}, upper bound {100 * RISE_HIGH:+.0f}, was asked for.",
        met=value <= RISE and bounds.high <= RISE_HIGH,
    )


def _task(task: TaskLoss) -> Claim:
    if task.gain_kept is None:
        return Claim(
            says=f"On its task's held-out rows the fine-tune gained less than {LEAST_GAIN:g} nats "
            "per token, so there is nothing to keep.",
            met=True,
        )
    return Claim(
        says=f"The task's gain in held-out loss (n {task.n}): {task.gain_kept:.0%} is kept; at "
        f"least {GAIN:.0%} was asked for.",
        met=task.gain_kept >= GAIN,
    )


def _said(record: RepairRecord, reason: str) -> RepairRecord:
    return record.model_copy(update={"reasons": ["Not repairable this way.", reason]})


def _none_met(
    rows: Sequence[Tried], reference: Mapping[str, Verdicts], losses: tuple[float, float]
) -> str:
    final = [row for row in rows if row.harmful is not None]
    said = "; ".join(
        f"{row.name}: {_percent(row.harmful)} of harmful and {_percent(row.harmless)} of harmless "
        f"prompts refused, {_part(row.gain_kept)} of the task's gain kept"
        for row in final
    )
    wanted = {kind: _percent(_rate(of)) for kind, of in reference.items()}
    return (
        f"On the prompts that choices are made on (aligned: {wanted['harmful']} and "
        f"{wanted['harmless']}; task loss {losses[0]:.3f} before and {losses[1]:.3f} after the "
        f"fine-tune) no finalist met all targets. {said}."
    )


def _percent(rate: RateRecord | None) -> str:
    return "unknown" if rate is None or rate.value is None else f"{rate.value:.0%}"


def _part(value: float | None) -> str:
    return "all" if value is None else f"{value:.0%}"
