"""Answers and verdicts under one setting after another, each made once and kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safety_neurons.engine import ModelGroup
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, kept_key, texts_of
from safety_neurons.inference.reading import Place, Read, read_at
from safety_neurons.judges import Judge, Verdict, unfinished, verdicts_on
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, PromptSet
from safety_neurons.runs import RunFolder
from safety_neurons.statistics import Rate, rate
from safety_neurons.storage import digest
from safety_neurons.units import UnitSpace


@dataclass(frozen=True)
class Judged:
    """Answers to a prompt set, with a verdict each."""

    responses: list[str]
    verdicts: list[Verdict]

    @property
    def refusals(self) -> list[float]:
        """The safety metric: 1 for a refusal, else 0 (unscored answers count as 0)."""
        return [float(verdict is Verdict.REFUSAL) for verdict in self.verdicts]

    @property
    def unscored(self) -> int:
        return self.verdicts.count(Verdict.UNSCORED)

    @property
    def unfinished(self) -> int:
        """How many answers ended inside their reasoning; they are unscored."""
        return unfinished(self.responses)

    @property
    def refusal_rate(self) -> Rate:
        hits = self.verdicts.count(Verdict.REFUSAL)
        return rate(hits, len(self.verdicts), self.unscored)


class Evaluator:
    """Lets models answer prompt sets under settings, and judges the answers.

    Finished batches are kept under a name made of everything that decides them, so that a stopped
    or repeated study only makes what is missing.

    Args:
        chat: how prompts are written.
        answers: the folder where they are kept; None to keep none.
    """

    def __init__(
        self,
        group: ModelGroup,
        judge: Judge,
        decoding: Decoding,
        chat: ChatFormat,
        answers: Path | None,
        progress: Progress,
    ) -> None:
        self.group = group
        self.judge = judge
        self.decoding = decoding
        self.chat = chat
        self.progress = progress
        self._answers = answers
        self._encoded: dict[str, list[list[int]]] = {}
        self._judged: dict[str, Judged] = {}
        self._unkept: dict[tuple[str, str], list[list[int]]] = {}

    @classmethod
    def of_run(
        cls,
        run: RunFolder,
        group: ModelGroup,
        judge: Judge,
        decoding: Decoding,
        progress: Progress,
    ) -> Evaluator:
        """One that writes prompts as `find` did, and keeps answers in the run's state."""
        chat = ChatFormat.of_config(run.config("find"))
        return cls(group, judge, decoding, chat, run.state("answers"), progress)

    def encoded(self, prompts: PromptSet) -> list[list[int]]:
        """Token ids of a prompt set."""
        if prompts.digest not in self._encoded:
            self._encoded[prompts.digest] = encode_prompts(
                self.group, prompts, self.decoding, self.chat
            )
        return self._encoded[prompts.digest]

    def completions(self, prompts: PromptSet, setting: Setting, label: str) -> list[list[int]]:
        """Token ids of the answers to `prompts` under `setting`."""
        return self.prepare(prompts, [setting], label)[0]

    def prepare(
        self, prompts: PromptSet, settings: Sequence[Setting], label: str
    ) -> list[list[list[int]]]:
        """Answers to `prompts` under each of `settings`, which is faster than one by one."""
        distinct = {
            setting.key: setting
            for setting in settings
            if (prompts.digest, setting.key) not in self._unkept
        }
        answers = answer(
            self.group,
            self.encoded(prompts),
            list(distinct.values()),
            self.decoding,
            logs=self._logs(prompts, distinct.values()),
            progress=self.progress,
            label=label,
        )
        by_key = dict(zip(distinct, answers, strict=True))
        if self._answers is None:  # else they are on disk
            self._unkept |= {(prompts.digest, key): of for key, of in by_key.items()}
        return [
            by_key[s.key] if s.key in by_key else self._unkept[(prompts.digest, s.key)]
            for s in settings
        ]

    def read(
        self,
        prompts: PromptSet,
        places: Sequence[Sequence[Place]],
        space: UnitSpace,
        setting: Setting,
        *,
        first: Collection[int] = (),
        label: str | None = None,
    ) -> Read:
        """What a model computes on `prompts` at places, under `setting`; see `read_at`.

        Args:
            label: of the progress; None for silence, such as inside another loop.

        Returns:
            Units and probabilities, in the order of `prompts`.
        """
        return read_at(
            self.group,
            self.encoded(prompts),
            places,
            space,
            setting,
            self.decoding,
            first=first,
            progress=None if label is None else self.progress,
            label=label or "",
        )

    def writing(self, max_new_tokens: int) -> Evaluator:
        """The same, but for where answers are cut."""
        decoding = replace(self.decoding, max_new_tokens=max_new_tokens)
        return Evaluator(self.group, self.judge, decoding, self.chat, self._answers, self.progress)

    def judged(
        self, prompts: PromptSet, setting: Setting, label: str, *, cut: int | None = None
    ) -> Judged:
        """Answers to `prompts` under `setting`, with verdicts.

        Args:
            cut: judge only so many tokens of each answer.

        Returns:
            Texts and verdicts, in the order of `prompts`.
        """
        key = digest(prompts.digest, setting.key, cut)
        if key not in self._judged:
            completions = [c[:cut] for c in self.completions(prompts, setting, label)]
            responses = texts_of(self.group, completions, self.chat)
            verdicts = verdicts_on(self.judge, prompts.texts, responses)
            self._judged[key] = Judged(responses, verdicts)
        return self._judged[key]

    def _logs(self, prompts: PromptSet, settings: Iterable[Setting]) -> list[Path] | None:
        if self._answers is None:
            return None
        self._answers.mkdir(parents=True, exist_ok=True)
        encoded = self.encoded(prompts)
        keys = [kept_key(self.group, encoded, setting, self.decoding) for setting in settings]
        return [self._answers / f"{key}.jsonl" for key in keys]
