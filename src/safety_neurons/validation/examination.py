"""Answers and verdicts under one setting after another, each made once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safety_neurons.artifacts import RunFolder, digest
from safety_neurons.generation import Decoding, answer
from safety_neurons.judges import Judge, Verdict
from safety_neurons.models import ModelPair, Side
from safety_neurons.neurons import NeuronSet
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, PromptSet, decode_text, encode_all
from safety_neurons.statistics import Rate, rate


@dataclass(frozen=True)
class Setting:
    """Who answers, with which neurons overwritten by the other side's values."""

    recipient: Side
    patch: NeuronSet | None = None

    @property
    def key(self) -> str:
        """The same for settings that must give the same answers."""
        return digest(str(self.recipient), None if self.patch is None else self.patch.flat.tolist())


UNALIGNED = Setting(Side.UNALIGNED)
ALIGNED = Setting(Side.ALIGNED)


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
    def refusal_rate(self) -> Rate:
        hits = self.verdicts.count(Verdict.REFUSAL)
        return rate(hits, len(self.verdicts), self.unscored)


class Examination:
    """Puts prompt sets to a pair under settings, and judges what comes back.

    Finished batches are kept in the run folder under a name made of everything that
    decides them, so that a stopped or repeated validation only makes what is missing.
    """

    def __init__(
        self,
        pair: ModelPair,
        judge: Judge,
        decoding: Decoding,
        chat: ChatFormat,
        run: RunFolder,
        progress: Progress,
    ) -> None:
        self.pair = pair
        self.judge = judge
        self.decoding = decoding
        self.run = run
        self.progress = progress
        self._chat = chat
        self._encoded: dict[str, list[list[int]]] = {}
        self._judged: dict[str, Judged] = {}

    def encoded(self, prompts: PromptSet) -> list[list[int]]:
        """Token ids of a prompt set."""
        if prompts.digest not in self._encoded:
            self._encoded[prompts.digest] = encode_all(
                prompts,
                self.pair.tokenizer,
                self._chat,
                context_length=self.pair.context_length,
                max_new_tokens=self.decoding.max_new_tokens,
            )
        return self._encoded[prompts.digest]

    def completions(self, prompts: PromptSet, setting: Setting, label: str) -> list[list[int]]:
        """Token ids of the answers to `prompts` under `setting`."""
        return answer(
            self.pair,
            self.encoded(prompts),
            setting.recipient,
            self.decoding,
            patch=setting.patch,
            log=self._log(prompts, setting),
            progress=self.progress,
            label=label,
        )

    def judged(self, prompts: PromptSet, setting: Setting, label: str) -> Judged:
        """Answers to `prompts` under `setting`, with verdicts."""
        key = digest(prompts.digest, setting.key)
        if key not in self._judged:
            completions = self.completions(prompts, setting, label)
            responses = [decode_text(self.pair.tokenizer, tokens) for tokens in completions]
            self._judged[key] = Judged(responses, self.judge(prompts.texts, responses))
        return self._judged[key]

    def _log(self, prompts: PromptSet, setting: Setting) -> Path:
        made_of = digest(
            self.encoded(prompts),
            setting.key,
            self.decoding.max_new_tokens,
            self.decoding.batch_size,
            str(self.pair.dtype),
            self.pair.provenance,
        )
        return self.run.state(f"answers/{made_of}.jsonl")
