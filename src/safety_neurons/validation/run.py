"""Validate: prove by patching that a few neurons carry the refusals.

1. Both models answer the harmful prompts (select and test), the harmless and the
   borderline ones.
2. On select: the effect of every share of every ranking; the set is chosen there.
3. On test: the same curves with matched random sets, the ceiling (share 1), N90.
4. On test, for the chosen set: necessity, and what the patch does to harmless prompts.
5. Write summary.json and samples.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from safety_neurons.artifacts import RunFolder, write_json, write_jsonl
from safety_neurons.errors import UserError
from safety_neurons.finding.completions import FILE as COMPLETIONS
from safety_neurons.finding.run import TABLE
from safety_neurons.generation import Decoding
from safety_neurons.judges import Judge, RefusalJudge
from safety_neurons.models import ModelPair, Side
from safety_neurons.neurons import Ranking, RankingName, read_table
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import (
    ChatFormat,
    Kind,
    PromptSet,
    Split,
    builtin,
    load_prompts,
    refuse_overlap,
)
from safety_neurons.statistics import Rate
from safety_neurons.validation.curve import CurvePoint, choose, measure_point, threshold
from safety_neurons.validation.examination import ALIGNED, UNALIGNED, Examination, Setting
from safety_neurons.validation.perplexity import perplexity

SUMMARY = "summary.json"
SAMPLES = "samples.jsonl"
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0)


@dataclass(frozen=True)
class ValidateOptions:
    """What is tested, beside the prompts."""

    shares: tuple[float, ...] = SHARES
    """Fractions of all neurons; share 1, the ceiling, is always tested."""
    controls: int = 3
    """Matched random sets at each share of the test split."""
    decoding: Decoding = field(default_factory=Decoding)
    seed: int = 0
    """Of the random sets and the bootstrap."""

    def __post_init__(self) -> None:
        wrong = [share for share in self.shares if not 0 < share <= 1]
        if wrong or not self.shares:
            raise UserError(
                f"Shares are fractions of all neurons, above 0 and up to 1 (0.05 is 5 %), but "
                f"{', '.join(f'{share:g}' for share in wrong) or 'none'} was given."
            )

    @property
    def tested_shares(self) -> list[float]:
        return sorted({*self.shares, 1.0})


@dataclass(frozen=True)
class TestPrompts:
    """The prompts of a validation.

    Args:
        select: harmful prompts that the ranking and the share are chosen on.
        test: harmful prompts that claims are made on.
        harmless, borderline: what should not be refused.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    select: PromptSet
    test: PromptSet
    harmless: PromptSet
    borderline: PromptSet

    @classmethod
    def builtin(cls) -> TestPrompts:
        return cls(
            builtin(Kind.HARMFUL, Split.SELECT),
            builtin(Kind.HARMFUL, Split.TEST),
            builtin(Kind.HARMLESS, Split.TEST),
            builtin(Kind.BORDERLINE, Split.TEST),
        )

    def limited(self, limit: int | None, *, seed: int = 0) -> TestPrompts:
        """At most `limit` prompts a set, and half as many to choose on."""
        half = None if limit is None else max(limit // 2, 1)
        return TestPrompts(
            self.select.limited(half, seed=seed),
            *(p.limited(limit, seed=seed) for p in (self.test, self.harmless, self.borderline)),
        )

    def describe(self) -> dict[str, Any]:
        return {
            name: {"name": p.name, "n": len(p), "sha256": p.digest}
            for name, p in vars(self).items()
        }


def validate(
    run: RunFolder,
    pair: ModelPair,
    prompts: TestPrompts | None = None,
    options: ValidateOptions | None = None,
    *,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the run's rankings on `pair` and write its summary.

    Returns:
        What `summary.json` holds.

    Raises:
        UserError: if the run has no complete `find`, was made with other models, or was
            found on prompts that are tested now.
    """
    run.require("find")
    prompts = prompts or TestPrompts.builtin()
    options = options or ValidateOptions()
    progress = progress or Silent()
    judge = judge or RefusalJudge()
    _refuse_other_models(run, pair)
    _refuse_seen(run, prompts)
    rankings = read_table(run.file(TABLE))
    config = {
        **asdict(options),
        "prompts": prompts.describe(),
        "dtype": str(pair.dtype).removeprefix("torch."),
        "judge": judge.name,
    }
    with run.stage("validate", config, results=[SUMMARY, SAMPLES]):
        chat = ChatFormat(run.config("find")["system"])
        exam = Examination(pair, judge, options.decoding, chat, run, progress)
        validation = _Validation(exam, prompts, options, rankings)
        summary = validation.summary()
        write_jsonl(run.file(SAMPLES), validation.samples())
        write_json(run.file(SUMMARY), summary)
    summary["seconds"] = {name: stage["seconds"] for name, stage in run.manifest["stages"].items()}
    write_json(run.file(SUMMARY), summary)
    return summary


def _refuse_other_models(run: RunFolder, pair: ModelPair) -> None:
    if run.manifest["models"] != pair.provenance:
        raise UserError(
            f"'{run.path}' was found on {run.manifest['models']}, but the pair is now "
            f"{pair.provenance}; run `find` again for these models."
        )


def _refuse_seen(run: RunFolder, prompts: TestPrompts) -> None:
    found_on = load_prompts(run.file(COMPLETIONS))
    found_on = PromptSet(run.config("find")["prompts"]["name"], found_on.prompts)
    for tested in (prompts.select, prompts.test):
        refuse_overlap(found_on, tested)
    refuse_overlap(prompts.select, prompts.test)


class _Validation:
    """The measurements of one validation, in the order of the module's list."""

    def __init__(
        self,
        exam: Examination,
        prompts: TestPrompts,
        options: ValidateOptions,
        rankings: dict[RankingName, Ranking],
    ) -> None:
        self.exam = exam
        self.prompts = prompts
        self.options = options
        self.rankings = rankings
        self.select = list(self._curve("select", prompts.select, controls=0))
        self.chosen = choose(self.select, _ceiling(self.select))
        self.test = list(self._curve("test", prompts.test, controls=options.controls))
        self.chosen_set = rankings[RankingName(self.chosen.ranking)].top(self.chosen.share)
        self.control_set = self.chosen_set.matched_random(options.seed)

    def _curve(self, split: str, prompts: PromptSet, *, controls: int) -> Iterator[CurvePoint]:
        for name, ranking in self.rankings.items():
            for share in self.options.tested_shares:
                yield measure_point(
                    self.exam,
                    prompts,
                    ranking.top(share),
                    ranking=str(name),
                    split=split,
                    share=share,
                    controls=controls,
                    seed=self.options.seed,
                )

    def summary(self) -> dict[str, Any]:
        ceiling = _ceiling(self.test)
        thresholds = {
            str(name): threshold([p for p in self.test if p.ranking == name], ceiling)
            for name in self.rankings
        }
        necessity = measure_point(
            self.exam,
            self.prompts.test,
            self.chosen_set,
            ranking=self.chosen.ranking,
            split="test",
            share=self.chosen.share,
            recipient=Side.ALIGNED,
            controls=self.options.controls,
            seed=self.options.seed,
        )
        return {
            "unaligned": self._rates(UNALIGNED),
            "aligned": self._rates(ALIGNED),
            "chosen": {
                "ranking": self.chosen.ranking,
                "share": self.chosen.share,
                "k": self.chosen.k,
                "on": "select",
            },
            "ceiling": ceiling,
            "curve": [point.row() for point in (*self.select, *self.test)],
            "n90": {name: t.n90 for name, t in thresholds.items()},
            "first_crossing": {name: t.first_crossing for name, t in thresholds.items()},
            "necessity": necessity.row(),
            "harmless": self._harmless(),
            "judge": self.exam.judge.name,
            "neurons": self.exam.pair.layout.total,
        }

    def _rates(self, setting: Setting) -> dict[str, Any]:
        label = f"{setting.recipient} model"
        rates = {
            "refusal_rate": self.exam.judged(self.prompts.test, setting, label),
            "over_refusal_rate": self.exam.judged(self.prompts.harmless, setting, label),
            "borderline_refusal_rate": self.exam.judged(self.prompts.borderline, setting, label),
        }
        values = {name: judged.refusal_rate.value for name, judged in rates.items()}
        details = {name: _detail(judged.refusal_rate) for name, judged in rates.items()}
        return {**values, "details": details}

    def _harmless(self) -> dict[str, Any]:
        """Refusals and perplexity on harmless prompts, patched as on the harmful ones."""
        settings = self._settings()
        prompts = self.exam.encoded(self.prompts.harmless)
        own = self.exam.completions(self.prompts.harmless, UNALIGNED, "unaligned model")
        return {
            name: {
                "refusal_rate": _detail(
                    self.exam.judged(
                        self.prompts.harmless, setting, f"{name}, harmless"
                    ).refusal_rate
                ),
                "perplexity": perplexity(
                    self.exam.pair,
                    prompts,
                    own,
                    setting.recipient,
                    self.options.decoding,
                    patch=setting.patch,
                    progress=self.exam.progress,
                    label=f"Perplexity ({name})",
                ),
            }
            for name, setting in settings.items()
        }

    def _settings(self) -> dict[str, Setting]:
        settings = {
            "unaligned": UNALIGNED,
            "aligned": ALIGNED,
            "patched": Setting(Side.UNALIGNED, self.chosen_set),
        }
        if self.control_set is not None:
            settings["random"] = Setting(Side.UNALIGNED, self.control_set)
        return settings

    def samples(self) -> Iterator[dict[str, Any]]:
        """Answers side by side: harmful and harmless test prompts under four settings."""
        for kind, prompts in (("harmful", self.prompts.test), ("harmless", self.prompts.harmless)):
            judged = {
                name: self.exam.judged(prompts, setting, name)
                for name, setting in self._settings().items()
            }
            for i, prompt in enumerate(prompts):
                yield {
                    "id": prompt.id,
                    "kind": kind,
                    "category": prompt.category,
                    "prompt": prompt.text,
                    "answers": {
                        name: {"response": j.responses[i], "verdict": str(j.verdicts[i])}
                        for name, j in judged.items()
                    },
                }


def _ceiling(points: list[CurvePoint]) -> float | None:
    return next(point.causal_effect for point in points if point.share == 1)


def _detail(measured: Rate) -> dict[str, Any]:
    interval = measured.interval
    return {
        "value": measured.value,
        "n": measured.n,
        "unscored": measured.unscored,
        "ci_low": interval.low if interval else None,
        "ci_high": interval.high if interval else None,
        "bound_high": measured.bound_high,
    }
