"""Changes of one fine-tune, and what each does: measured once, and kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import ALONE
from safety_neurons.errors import UserError
from safety_neurons.inference import encode_prompts
from safety_neurons.judges import Judge
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, PromptSet
from safety_neurons.runs.repair import Tried, Weighed
from safety_neurons.studies.auditing.fast import Openings
from safety_neurons.studies.keeping import Keeping
from safety_neurons.studies.openings import weigh_openings
from safety_neurons.studies.repairing import fitting, search
from safety_neurons.studies.repairing.fitting import Canaries, Decided, fit_scales
from safety_neurons.studies.repairing.loading import RepairModels
from safety_neurons.studies.repairing.moves import (
    ALL,
    RANDOM,
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
    ALL_NEURONS,
    HELD,
    LEAST_GAIN,
    UNDONE,
    RepairOptions,
    RepairPrompts,
)
from safety_neurons.studies.repairing.scoring import (
    RepairTask,
    TaskRows,
    Verdicts,
    Weighing,
    answered,
    loss_of,
    own_answers,
    rows_of,
    task_nats,
)
from safety_neurons.units import Ranking, UnitSet


@dataclass
class Trials:
    """Makes changes of the candidate in memory, one after the other, and measures them.

    Args:
        ranking: whose first units are the safety neurons.
        state: where what was measured is kept, under everything that decides it.
    """

    models: RepairModels
    ranking: Ranking
    openings: Openings
    task: RepairTask
    prompts: RepairPrompts
    options: RepairOptions
    judge: Judge
    chat: ChatFormat
    progress: Progress
    state: Path
    _fitted_on: Canaries | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        options, openings = self.options, self.openings
        self.keeping = Keeping.of(
            self.state / "measured",
            *self.models.identity,
            str(options.dtype),
            options.decoding.max_new_tokens,
            options.seed,
            self.judge.name,
            [self.chat.system, dict(self.chat.template_args)],
            [openings.refusals, openings.threshold],
            [(of.prompts.texts, of.completions) for of in self.task.parts],
            {name: of.digest for name, of in self.prompts.by_name.items()},
            fitting.version(),
            "mean log-odds",
        )
        self.weighing = Weighing(
            openings,
            self.prompts.select,
            self.prompts.select_harmless,
            self.task.select,
            self.chat,
            options.decoding,
        )

    # Which changes there are

    def moves(self) -> list[Move]:
        """All changes that are tried, and baselines."""
        options = self.options
        found = []
        for share in options.shares:
            units = self._top(share)
            found += [self._transplant(units, share, far) for far in options.strengths]
        whole = UnitSet.all(self.ranking.space)
        found += [replace(self._transplant(whole, 1.0, far), of=ALL) for far in ALL_NEURONS]
        found += [self._undone(far) for far in UNDONE]
        found += [self._fitted(self._top(share), share) for share in options.fitted]
        return found

    def of_random(self, move: Move) -> Move | None:
        """The same change of random neurons of the same layers; None where there is none."""
        if move.units is None or move.share is None:
            return None
        units = move.units.matched_random(self.options.seed)
        if units is None:
            return None
        if move.kind == SCALES:
            return replace(self._fitted(units, move.share), of=RANDOM)
        return replace(self._transplant(units, move.share, move.strength), of=RANDOM)

    def _top(self, share: float) -> UnitSet:
        units = self.ranking.top(share)
        if not len(units):
            raise UserError(f"A share of {share:g} is no neuron at all; give a larger one.")
        return units

    def _undone(self, strength: float) -> Move:
        aligned, candidate = self.models.aligned, self.models.candidate
        return Move(
            WHOLE, None, None, strength, None, lambda: whole_update(aligned, candidate, strength)
        )

    def _transplant(self, units: UnitSet, share: float, strength: float) -> Move:
        aligned, candidate = self.models.aligned, self.models.candidate
        return Move(
            TRANSPLANT,
            units,
            share,
            strength,
            None,
            lambda: transplanted(aligned, candidate, units, strength),
        )

    def _fitted(self, units: UnitSet, share: float) -> Move:
        def fit() -> dict[str, Tensor]:
            factors = fit_scales(
                self.models.candidate,
                units,
                self.openings.refusals,
                self.openings.threshold,
                self._canaries(),
                self.progress,
                seed=self.options.seed,
                kept=self.state / f"fitting-{units.key[:12]}.safetensors",
            )
            return {"factors": factors}

        def make() -> Mapping[str, Edit]:
            kept = self.keeping.tensors(f"scales-{units.key}", fit)
            return scaled(self.models.candidate.hooked, units, kept["factors"])

        return Move(SCALES, units, share, 1.0, None, make)

    def _canaries(self) -> Canaries:
        if self._fitted_on is None:
            prompts, candidate = self.prompts, self.models.candidate
            harmless = own_answers(
                candidate,
                prompts.canary_harmless.limited(HELD),
                self.chat,
                self.options.decoding,
                self.progress,
                "Harmless answers",
            )
            asked = (prompts.canary, prompts.canary_harmless, prompts.canary_borderline)
            self._fitted_on = Canaries(
                [self._decided(of) for of in asked],
                harmless,
                rows_of(candidate, self.task.fit, self.chat, self.options.decoding),
            )
        return self._fitted_on

    def _decided(self, asked: PromptSet) -> Decided:
        """What the aligned model decides, each model asked in its own template."""
        decoding, aligned = self.options.decoding, self.models.aligned
        theirs, own = (
            encode_prompts(model, asked, decoding, self.chat)
            for model in (aligned, self.models.candidate)
        )
        found = weigh_openings(
            aligned,
            ALONE,
            self.openings.refusals,
            theirs,
            decoding,
            self.progress,
            "What the aligned model decides",
        )
        return Decided(own, [odds - self.openings.threshold for odds in found])

    # What they do

    def tried(self, move: Move, losses: tuple[float, float]) -> Tried:
        """Quick figures of one change.

        Args:
            losses: the aligned model's and the candidate's on the rows that choices are made on.
        """  # noqa: DOC201
        weighed, numbers = self.weighed(move)
        candidate, aligned = self.weighed(None)[0], self.weighed(None, aligned=True)[0]
        return Tried(
            name=move.name,
            kind=move.kind,
            share=move.share,
            strength=move.strength,
            k=0 if move.units is None else len(move.units),
            numbers=numbers,
            baseline=move.baseline,
            weighed=weighed,
            way=search.way(weighed, candidate, aligned),
            gain_kept=(losses[0] - weighed.task_loss) / (losses[0] - losses[1]),
        )

    def weighed(self, move: Move | None, *, aligned: bool = False) -> tuple[Weighed, int]:
        """By openings, with how many numbers are changed; None for the model as it is."""

        def measure() -> dict[str, Tensor]:
            with self._changed(move, aligned) as (model, changed):
                found = self.weighing.of(model)
            figures = [found.harmful, found.harmless, found.task_loss, float(changed)]
            return {"figures": torch.tensor(figures, dtype=torch.float64)}

        kept = self.keeping.tensors(f"weighed-{_named(move, aligned)}", measure)["figures"].tolist()
        return Weighed(harmful=kept[0], harmless=kept[1], task_loss=kept[2]), int(kept[3])

    def verdicts(self, prompts: PromptSet, move: Move | None, *, aligned: bool = False) -> Verdicts:
        """On the answers of a changed candidate, or of a model as it is."""
        name = _named(move, aligned)

        def measure() -> Verdicts:
            with self._changed(move, aligned) as (model, _):
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

    def nats(
        self, rows: TaskRows, move: Move | None, *, aligned: bool = False
    ) -> Float[Tensor, "2 row"]:
        """Of the task's rows, and their tokens; see `task_nats`."""

        def measure() -> dict[str, Tensor]:
            with self._changed(move, aligned) as (model, _):
                return {"nats": task_nats(model, rows, self.chat, self.options.decoding)}

        name = f"nats-{_named(move, aligned)}-{rows.prompts.digest[:12]}"
        return self.keeping.tensors(name, measure)["nats"]

    def losses(self) -> tuple[float, float]:
        """The aligned model's and the candidate's, on the rows that choices are made on.

        Raises:
            UserError: if these rows do not show what the fine-tune learned.
        """  # noqa: DOC201
        rows = self.task.select
        before, after = (loss_of(self.nats(rows, None, aligned=first)) for first in (True, False))
        if before - after < LEAST_GAIN:
            raise UserError(
                f"On the rows of --task the fine-tune's loss is {after:.3f} nats per token and the "
                f"aligned model's {before:.3f}, so they do not show what it learned; give rows of "
                "its task, with answers as it was trained on."
            )
        return before, after

    @contextlib.contextmanager
    def _changed(self, move: Move | None, aligned: bool) -> Iterator[tuple[LoadedModel, int]]:
        """A model that is changed inside the block, and how many numbers are others."""
        model = self.models.aligned if aligned else self.models.candidate
        with in_place(model, {} if move is None else move.make()) as changed:
            yield model, changed


def _named(move: Move | None, aligned: bool) -> str:
    if aligned:
        return "aligned"
    return "candidate" if move is None else move.key
