"""Audit a fine-tune: what it lost of a reference's refusals, and how far its neurons moved.

1. The two are compared by their files: architecture, tokens, templates.
2. Each is asked alone, as it would be served, with its own tokenizer and template.
3. Refusals of the same prompts are compared, with the judge's errors taken out.
4. Both read the reference's answers: how far the safety neurons moved, beside random ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from safety_neurons.engine import ALONE, Role, Side
from safety_neurons.environment import environment
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting
from safety_neurons.inference.answers import encode_prompts
from safety_neurons.judges import Judge, Verdict, judges_of, unfinished
from safety_neurons.judges.calibration import Errors
from safety_neurons.judges.classifier import errors_of
from safety_neurons.models import LoadedModel, ModelPair, Source
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, PromptSet
from safety_neurons.runs import RunFolder
from safety_neurons.runs.audit import HARMFUL, HARMLESS, AuditCard, Drift
from safety_neurons.studies.auditing.behaviour import (
    Decisions,
    coherent,
    compared,
    rates_of,
    require_finished,
    samples_of,
)
from safety_neurons.studies.auditing.drift import SafetyUnits, drift_of, last_prompt_tokens
from safety_neurons.studies.auditing.fast import Openings
from safety_neurons.studies.auditing.options import AuditOptions, AuditPrompts
from safety_neurons.studies.auditing.sides import CANDIDATE, REFERENCE, Sides
from safety_neurons.studies.auditing.units import require_reference, units_found, units_of_run
from safety_neurons.studies.auditing.verdict import conclude
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.openings import Measure

DRIFT_PROMPTS = 64
"""Harmful prompts whose answers both models read; more move the figures little."""
_LITTLE = 0.5


def audit(
    reference: str | Source,
    candidate: str | Source,
    *,
    run: RunFolder | None = None,
    prompts: AuditPrompts | None = None,
    options: AuditOptions | None = None,
    answers: str | Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> AuditCard:
    """Compare a fine-tune with the model that it should be as safe as.

    Args:
        run: whose aligned model is the reference; names the safety neurons. Without one they are
            found from the reference's own refusals.
        prompts: by default 100 built-in test prompts of each kind.
        answers: a folder that keeps answers, so that a stopped audit goes on; several audits of one
            reference may share it.
        command: what was typed.

    Returns:
        What `audit.json` holds; nothing is written.

    Raises:
        UserError: if the candidate is no fine-tune of the reference, the run is of another model,
            or a fast audit has no run.
    """
    options = options or AuditOptions()
    if options.fast:
        _require_fast(run, options)
    sides = Sides.of(reference, candidate, trust_remote_code=options.trust_remote_code)
    study = _Study(
        sides,
        run,
        prompts or AuditPrompts.builtin(seed=options.seed),
        options,
        None if answers is None else Path(answers),
        progress or Silent(),
    )
    return study.card(command)


def _require_fast(run: RunFolder | None, options: AuditOptions) -> None:
    if run is None:
        raise UserError(
            "A fast audit reads no answers and needs those of a run of the reference: name one "
            "with --run, or audit without --fast."
        )
    if options.errors is not None:
        raise UserError(
            "No judge is asked in a fast audit, so --calibration says nothing; leave it out."
        )
    if options.chat not in (None, ChatFormat.of_config(run.config("find"))):
        raise UserError(
            "A fast audit weighs openings of the run's answers, so that prompts must be written as "
            "the run wrote them; leave out --system and --template-arg, or audit without --fast."
        )


class _Study:
    """One audit, a step after the other; but for drift and openings one model is in memory."""

    def __init__(
        self,
        sides: Sides,
        run: RunFolder | None,
        prompts: AuditPrompts,
        options: AuditOptions,
        answers: Path | None,
        progress: Progress,
    ) -> None:
        self.sides, self.run, self.prompts, self.options = sides, run, prompts, options
        self.progress = progress
        self.judge: Judge = judges_of(options.judge).first
        self.chat = options.chat or (
            ChatFormat() if run is None else ChatFormat.of_config(run.config("find"))
        )
        self._answers = answers
        self._completions: list[list[int]] = []
        self._safety: SafetyUnits | None = None
        self._provenance: dict[str, dict[str, Any]] = {}
        self._said: list[str] = []

    @property
    def asked(self) -> dict[str, PromptSet]:
        """The prompts by kind; fast audits leave borderline ones out, which no rule needs."""
        by_kind = self.prompts.by_kind
        return {k: by_kind[k] for k in (HARMFUL, HARMLESS)} if self.options.fast else by_kind

    def card(self, command: str | None) -> AuditCard:
        began = time.monotonic()
        options, by_kind = self.options, self.asked
        openings = self._openings()
        decide = self._answering if openings is None else self._reading(openings)
        reference, candidate = (self._decisions(name, decide) for name in (REFERENCE, CANDIDATE))
        errors = self._errors() if openings is None else openings.errors
        known = dict.fromkeys(by_kind, errors)
        if openings is not None and not openings.harmless:
            known = {HARMFUL: errors}
        figures = compared(reference, candidate, known, seed=options.seed)
        incoherent = {REFERENCE: reference.incoherent, CANDIDATE: candidate.incoherent}
        concluded = conclude(
            figures[HARMFUL],
            figures[HARMLESS],
            incoherent[CANDIDATE].value,
            fail_under=options.fail_under,
        )
        drift = self._drift() if options.drift else None
        return AuditCard(
            verdict=concluded.verdict,
            reasons=concluded.reasons,
            rules=concluded.rules,
            failed=concluded.failed,
            fail_under=options.fail_under,
            reference=self._provenance[REFERENCE],
            candidate=self._provenance[CANDIDATE],
            rates=rates_of(reference, candidate, figures),
            incoherent=incoherent,
            drift=drift,
            n={kind: len(asked) for kind, asked in by_kind.items()},
            needed=concluded.needed,
            judge=self.judge.name if openings is None else "openings",
            judge_errors=None if errors is None else errors.model_dump(mode="json"),
            fast=None if openings is None else openings.figures,
            notes=[*self.sides.notes, *self._said, *self._notes(reference, candidate, errors)],
            samples=list(samples_of(by_kind, reference, candidate)),
            refuses={
                kind: {REFERENCE: reference.refuses[kind], CANDIDATE: candidate.refuses[kind]}
                for kind in by_kind
            },
            options={
                "decoding": {
                    "max_new_tokens": options.decoding.max_new_tokens,
                    "batch_size": options.decoding.batch_size,
                },
                "seed": options.seed,
                "dtype": str(options.dtype).removeprefix("torch."),
                "prompts": {kind: asked.describe() for kind, asked in by_kind.items()},
                "fast": options.fast,
                "run": None if self.run is None else self.run.path.name,
            },
            command=command,
            seconds=round(time.monotonic() - began, 1),
            environment=environment(),
        )

    def _openings(self) -> Openings | None:
        if not self.options.fast or self.run is None:
            return None
        options = self.options
        return Openings.of_run(
            self.run,
            self.judge,
            self.chat,
            options.decoding,
            self.progress,
            measure=Measure.MARGIN,
            dtype=options.dtype,
            device=options.device,
            kept=self._answers,
        )

    def _load(self, name: str) -> LoadedModel:
        options = self.options
        return LoadedModel.load(
            self.sides.reference if name == REFERENCE else self.sides.candidate,
            dtype=options.dtype,
            device=options.device,
            trust_remote_code=options.trust_remote_code,
        )

    def _decisions(self, name: str, decide: Callable[[str, LoadedModel], Decisions]) -> Decisions:
        model = self._load(name)
        self._provenance[name] = model.provenance
        self._said += [f"{name.capitalize()}: {note}" for note in model.notes]
        if name == REFERENCE and self.run is not None:
            require_reference(self.run, model)
        return decide(name, model)

    def _reading(self, openings: Openings) -> Callable[[str, LoadedModel], Decisions]:
        def decide(name: str, model: LoadedModel) -> Decisions:
            if name == REFERENCE:
                self._find_units(None)
            return openings.decisions(
                model,
                self.asked,
                self.chat,
                self.options.decoding,
                self.progress,
                name.capitalize(),
                kept=self._answers,
            )

        return decide

    def _answering(self, name: str, model: LoadedModel) -> Decisions:
        evaluator = Evaluator(
            model, self.judge, self.options.decoding, self.chat, self._answers, self.progress
        )
        judged = {
            kind: evaluator.judged(asked, Setting(ALONE), f"{name.capitalize()}, {kind} prompts")
            for kind, asked in self.prompts.by_kind.items()
        }
        cut = sum(of.unfinished for of in judged.values())
        require_finished(name, cut, sum(len(of.responses) for of in judged.values()))
        if name == REFERENCE:
            self._completions = evaluator.completions(
                self.prompts.harmful, Setting(ALONE), "Reference"
            )
            self._find_units(evaluator)
        return Decisions(
            {kind: [v is Verdict.REFUSAL for v in of.verdicts] for kind, of in judged.items()},
            {kind: of.unscored for kind, of in judged.items()},
            {kind: of.responses for kind, of in judged.items()},
            {
                kind: [
                    coherent(verdict, response)
                    for verdict, response in zip(of.verdicts, of.responses, strict=True)
                    if not unfinished([response])
                ]
                for kind, of in judged.items()
            },
            cut,
        )

    def _find_units(self, evaluator: Evaluator | None) -> None:
        options = self.options
        if not options.drift:
            return
        if self.run is not None:
            self._safety = units_of_run(self.run, options.share, options.ranking)
        elif evaluator is not None:
            role: Role = ALONE
            try:
                self._safety = units_found(evaluator, role, options.share, options.seed)
            except UserError as error:
                self._said.append(f"Drift was not measured: {error}")

    def _drift(self) -> Drift | None:
        """A lead and no verdict: what keeps it from being measured becomes a note."""
        try:
            return self._measured_drift()
        except UserError as error:
            self._said.append(f"Drift was not measured: {error}")
        except torch.OutOfMemoryError:
            self._said.append("Drift was not measured: both models at once need too much memory.")
        return None

    def _measured_drift(self) -> Drift | None:
        safety, options = self._safety, self.options
        if safety is None:
            return None
        pair = ModelPair.load(
            self.sides.reference,
            self.sides.candidate,
            dtype=options.dtype,
            device=options.device,
            trust_remote_code=options.trust_remote_code,
            template_from=Side.ALIGNED.value,
        )
        if pair.space(*safety.units.space.kinds) != safety.units.space:
            raise UserError(
                "The neurons are those of a differently shaped model than the reference; give a "
                "run of this one."
            )
        asked: PromptSet = self.prompts.harmful
        encoded = encode_prompts(pair, asked, options.decoding, self.chat)
        completions, at = self._completions, "from the last prompt token on, in its answers"
        if not completions:
            completions, at = last_prompt_tokens(encoded), "the last prompt token"
        read = [i for i, completion in enumerate(completions) if completion][:DRIFT_PROMPTS]
        return drift_of(
            pair,
            safety,
            [encoded[i] for i in read],
            [completions[i] for i in read],
            options.decoding,
            at,
            self.progress,
            seed=options.seed,
        )

    def _errors(self) -> Errors | None:
        return self.options.errors or errors_of(self.judge)

    def _notes(
        self, reference: Decisions, candidate: Decisions, errors: Errors | None
    ) -> list[str]:
        notes = [
            f"{of.unfinished} answers of the {name} end inside their reasoning; they count as no "
            "refusals, and not for coherence."
            for name, of in ((REFERENCE, reference), (CANDIDATE, candidate))
            if of.unfinished
        ]
        files = [of["files"] for of in self._provenance.values()]
        if files[0] == files[1]:
            notes.append("The candidate's files are the reference's own.")
        refused = reference.refuses[HARMFUL]
        if sum(refused) < _LITTLE * len(refused):
            notes.append(
                f"The reference refuses {sum(refused)} of {len(refused)} harmful prompts, so there "
                "was little to lose; see whether the two are swapped."
            )
        if errors is None:
            notes.append(
                f"How often the judge '{self.judge.name}' errs is not known here, so its verdicts "
                "were taken as they are; give --calibration."
            )
        if self.options.fast:
            notes.append(
                "No answer was written: refusals are predicted from openings, and whether answers "
                "are language is not known."
            )
        return notes
