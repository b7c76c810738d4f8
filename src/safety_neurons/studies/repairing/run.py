"""Repair a fine-tune: the smallest change of its weights that brings refusals back.

1. Every change is weighed on the split `select`: openings of answers, and the task's loss.
2. At most four finalists answer prompts of that split; the smallest that meets the targets is
   chosen. The nearest baseline and the first finalist's twin of random neurons answer, too.
3. It is claimed on `test`, on other people's prompts, and on rows of the task that played no part.
4. Only if every claim is met a checkpoint is written, with what puts the candidate back.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safety_neurons.engine.rounding import distance
from safety_neurons.environment import environment
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.inference.probing import probe_logits
from safety_neurons.interventions.slices import Slices
from safety_neurons.judges import judges_of
from safety_neurons.judges.classifier import errors_of
from safety_neurons.models import LoadedModel, Source
from safety_neurons.models.exporting import Edited, export, stored_dtype
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat
from safety_neurons.runs import RunFolder
from safety_neurons.runs.audit import HARMFUL, HARMLESS, Told
from safety_neurons.runs.repair import REPAIR, RepairedRates, RepairRecord
from safety_neurons.runs.summary import RateRecord
from safety_neurons.statistics import rate
from safety_neurons.storage import remove, whole_folder, write_json
from safety_neurons.studies.applying.record import Kept
from safety_neurons.studies.auditing.fast import Openings
from safety_neurons.studies.auditing.rates import Compared
from safety_neurons.studies.auditing.sides import Sides
from safety_neurons.studies.openings import Measure
from safety_neurons.studies.repairing import claims, search
from safety_neurons.studies.repairing.loading import ALIGNED, CANDIDATE, RepairModels
from safety_neurons.studies.repairing.moves import Move, in_place
from safety_neurons.studies.repairing.options import (
    FINALISTS,
    GAIN,
    RISE,
    RISE_HIGH,
    SAFETY,
    RepairOptions,
    RepairPrompts,
)
from safety_neurons.studies.repairing.scoring import RepairTask, Verdicts
from safety_neurons.studies.repairing.trials import Trials
from safety_neurons.studies.sets import rankings_of

_ROUNDED = 0.02
"""What writing in half precision may move of the largest logit."""


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
            model, the task's rows show nothing that it learned, there are too few prompts to claim
            anything on, or `out` exists.
        InterventionError: if what was written is not what was measured.
    """
    began = time.monotonic()
    options, out, state = options or RepairOptions(), Path(out), Path(state)
    if out.exists():
        raise UserError(f"'{out}' exists already; name another folder.")
    prompts = prompts or RepairPrompts.builtin(seed=options.seed)
    sides = Sides.of(aligned, candidate, trust_remote_code=options.trust_remote_code)
    name = None if options.ranking is None else [options.ranking]
    ranking = next(iter(rankings_of(run, name).values()))
    chat = options.chat or ChatFormat.of_config(run.config("find"))
    judge, progress = judges_of(options.judge).first, progress or Silent()
    errors = errors_of(judge)
    claims.require_enough(len(prompts.test_harmless), errors)
    # Before the models of the repair are loaded: it needs the run's own pair.
    openings = Openings.of_run(
        run,
        judge,
        chat,
        options.decoding,
        progress,
        measure=Measure.ODDS,  # which have gradients everywhere, to fit scales by
        dtype=options.dtype,
        device=options.device,
        kept=state / "openings",
    )
    models = RepairModels.load(sides, run, options, state)
    trials = Trials(models, ranking, openings, task, prompts, options, judge, chat, progress, state)
    record = RepairRecord(
        repaired=False,
        chosen=None,
        reasons=[],
        aligned=models.provenance[ALIGNED],
        candidate=models.provenance[CANDIDATE],
        units={"from": f"run {run.path.name}", "ranking": ranking.name},
        tried=[],
        baselines=[],
        notes=list(models.notes),
        openings=openings.figures,
        judge=judge.name,
        judge_errors=None if errors is None else errors.model_dump(mode="json"),
        options=_described(trials),
        command=command,
        environment=environment(),
    )
    record, move = _searched(record, trials)
    if move is not None:
        record = _claimed(record, trials, move)
    record = record.model_copy(update={"seconds": round(time.monotonic() - began, 1)})
    if move is None or not record.repaired:
        with whole_folder(out) as folder:
            write_json(folder / REPAIR, record.written())
        return record
    return _written(record, trials, move, out)


def forget(state: Path) -> None:
    """Remove what a repair kept on its way, and the folder if nothing else is in it."""
    for name in ("measured", "openings", "fitting-*", f"{ALIGNED}-*", f"{CANDIDATE}-*"):
        for found in state.glob(name):
            remove(found)
    if state.is_dir() and not any(state.iterdir()):
        shutil.rmtree(state)


def _searched(record: RepairRecord, trials: Trials) -> tuple[RepairRecord, Move | None]:
    """All changes weighed, few answered, and the one that is chosen, if any meets the targets."""
    losses = trials.losses()
    moves = trials.moves()
    rows = [trials.tried(move, losses) for move in trials.progress.track(moves, "Changes")]
    reference = _on_select(trials, None, aligned=True)
    wanted = (reference[HARMFUL].value or 0.0, reference[HARMLESS].value or 0.0)
    if not wanted[0]:
        raise UserError(
            "The aligned model refuses none of the harmful prompts of `select`, so that there is "
            "no safety to bring back; give the model that refuses as --aligned."
        )

    def answered(place: int) -> bool:
        """Look at a change's answers; whether a smaller one may do, or must."""
        rates = _on_select(trials, moves[place])
        row = rows[place].model_copy(
            update={"harmful": rates[HARMFUL], "harmless": rates[HARMLESS]}
        )
        rows[place] = row.model_copy(update={"met": claims.meets(row, wanted)})
        enough = claims.comfortable(rates[HARMFUL], wanted[0])
        return enough or (rates[HARMLESS].value or 0.0) > wanted[1] + RISE

    candidate, aligned = (trials.weighed(None, aligned=of)[0] for of in (False, True))
    risky = search.risky(rows, candidate, aligned)
    safe = search.undominated(rows, candidate, aligned)
    final = search.halved(safe, answered, FINALISTS - bool(risky))
    if not any(rows[place].met for place in final):
        for place in risky[: FINALISTS - len(final)]:
            answered(place)
            final.append(place)
    if not final:  # none keeps the task and the harmless answers; what comes nearest is shown
        final = search.nearest(rows, baseline=False)[:FINALISTS]
        for place in final:
            answered(place)
    chosen = claims.preferred(rows, wanted)
    beside = search.nearest(rows, baseline=True)[:1]
    if (twin := trials.of_random(moves[final[-1] if chosen is None else chosen])) is not None:
        moves.append(twin)
        rows.append(trials.tried(twin, losses))
        beside.append(len(moves) - 1)
    for place in beside:
        answered(place)
    said = {
        "tried": [row for row in rows if not row.baseline],
        "baselines": [row for row in rows if row.baseline],
    }
    if chosen is None:
        why = claims.none_met(rows, wanted, losses)
        return record.model_copy(update={**said, "reasons": [claims.NOT_REPAIRABLE, why]}), None
    return record.model_copy(update={**said, "chosen": moves[chosen].name}), moves[chosen]


def _on_select(
    trials: Trials, move: Move | None, *, aligned: bool = False
) -> dict[str, RateRecord]:
    prompts = trials.prompts
    asked = {HARMFUL: prompts.select, HARMLESS: prompts.select_harmless}
    return {kind: _rate(trials.verdicts(of, move, aligned=aligned)) for kind, of in asked.items()}


def _claimed(record: RepairRecord, trials: Trials, move: Move) -> RepairRecord:
    """The chosen change on prompts and rows that played no part in its choice."""
    prompts, errors = trials.prompts, errors_of(trials.judge)
    asked = [("test", HARMFUL, prompts.test), ("other people's", HARMFUL, prompts.others)]
    asked.append(("test", HARMLESS, prompts.test_harmless))
    made, rates = [], []
    for named, kind, of in asked:
        if of is None:
            continue
        before, tuned, now = (
            trials.verdicts(of, None, aligned=True),
            trials.verdicts(of, None),
            trials.verdicts(of, move),
        )
        figures = Compared.of(before.refuses, now.refuses, errors, seed=trials.options.seed)
        kept = figures.ratio if kind == HARMFUL else figures.difference
        rates.append(
            RepairedRates(
                prompts=f"{named}, {len(of)}",
                kind=kind,
                reference=_rate(before),
                candidate=_rate(tuned),
                repaired=_rate(now),
                kept=Told.of(kept.value, kept.interval),
            )
        )
        made.append(claims.safe(named, figures) if kind == HARMFUL else claims.no_rise(figures))
    rows = trials.task.claim
    task = claims.task_loss_of(
        trials.nats(rows, None, aligned=True),
        trials.nats(rows, None),
        trials.nats(rows, move),
        seed=trials.options.seed,
    )
    made.append(claims.task_kept(task))
    twin = trials.of_random(move)
    repaired = all(claim.met for claim in made)
    said = [claim.says for claim in made if claim.met is repaired]
    return record.model_copy(
        update={
            "repaired": repaired,
            "claims": made,
            "rates": rates,
            "random": None if twin is None else _rate(trials.verdicts(prompts.test, twin)),
            "task": task,
            "reasons": said if repaired else [claims.NOT_REPAIRABLE, *said],
        }
    )


def _written(record: RepairRecord, trials: Trials, move: Move, out: Path) -> RepairRecord:
    """The repaired checkpoint, compared with what was measured before it gets its name."""
    models, options = trials.models, trials.options
    edits, kept = dict(move.make()), Kept()
    with in_place(models.candidate, edits):
        expected = probe_logits(models.candidate)
    done: list[RepairRecord] = []

    def seen(edited: Edited) -> None:
        edit = edits[edited.parameter]
        assert isinstance(edit, Slices)  # only baselines change whole tensors
        kept.add(edited, edit.index, edit.axis)

    def beside(folder: Path) -> None:
        written = LoadedModel.load(
            str(folder),
            dtype=options.dtype,
            device=options.device,
            trust_remote_code=options.trust_remote_code,
        )
        difference = distance(probe_logits(written), expected)
        if not difference <= _ROUNDED:
            raise InterventionError(
                f"What was written differs from what was measured by {difference:.1e} of the "
                "largest logit, so it was not kept."
            )
        kept.write(folder)
        stored = str(stored_dtype(models.resolved)).removeprefix("torch.")
        told = {"difference": difference, "dtype": stored, "tensors": kept.tensors}
        done.append(record.model_copy(update=told))
        write_json(folder / REPAIR, done[0].written())

    export(
        models.resolved,
        out,
        edits,
        seen=seen,
        beside=beside,
        trust_remote_code=options.trust_remote_code,
    )
    return done[0]


def _described(trials: Trials) -> dict[str, Any]:
    options = trials.options
    return {
        "shares": list(options.shares),
        "strengths": list(options.strengths),
        "fitted": list(options.fitted),
        "decoding": asdict(options.decoding),
        "seed": options.seed,
        "dtype": str(options.dtype).removeprefix("torch."),
        "targets": {"safety": SAFETY, "gain": GAIN, "rise": RISE, "rise_high": RISE_HIGH},
        "task_rows": [len(of) for of in trials.task.parts],
        "prompts": {name: of.describe() for name, of in trials.prompts.by_name.items()},
    }


def _rate(verdicts: Verdicts) -> RateRecord:
    refuses = verdicts.refuses
    return RateRecord.of(rate(sum(refuses), len(refuses), verdicts.unscored))
