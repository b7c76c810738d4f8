"""What the story is made of: commands of the package and of this folder, each resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.fine_tune_story.kept import AUDITS, FAST, REPAIRED, TRUTH, is_kept
from examples.fine_tune_story.tasks import KEPT, TASKS

from safety_neurons.runs import RunFolder

ALIGNED, UNALIGNED = "embedded:aligned", "embedded:unaligned"
TOKENS = ("--max-new-tokens", "24", "--batch-size", "100")
"""A refusal says so in its first words; longer answers double the time, small batches, too."""
TO_REPAIR = ("sure", "bold")
"""Whose last step is repaired."""
FITTED = {"sure": "0.02", "bold": "0.02"}
"""On which shares scales are fitted; a fit takes ten minutes on one core."""
SEEDS = range(5)
"""Of the benign fine-tune on which false alarms are counted."""
BENIGN = "tickets"
OTHERS = Path("../shared/data/harmful_val.jsonl")
"""Prompts of other people, where they are."""


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        arguments: behind `python -m`.
        made: what is there when it is done.
        accepted: exit codes that are no failure.
    """

    name: str
    arguments: tuple[str, ...]
    made: Callable[[], bool]
    accepted: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Candidate:
    """One kept step of a fine-tune."""

    task: str
    step: int
    seed: int = 0

    @property
    def name(self) -> str:
        """As folders are called."""
        return f"{self.task}-{self.step:03}" + (f"-seed{self.seed}" if self.seed else "")

    def source(self, out: Path) -> str:
        """As the package's commands name it."""
        return f"{out / 'base'}+{fine_tunes(out, self.seed) / self.task / f'step-{self.step:03}'}"


def fine_tunes(out: Path, seed: int = 0) -> Path:
    """Where the fine-tunes of one seed are."""
    return out / ("fine-tunes" if seed == 0 else f"fine-tunes-seed{seed}")


def candidates() -> list[Candidate]:
    """All kept steps of all tasks."""
    return [
        Candidate(name, task.steps * part // KEPT)
        for name, task in TASKS.items()
        for part in range(1, KEPT + 1)
    ]


def last(task: str, seed: int = 0) -> Candidate:
    """The end of a training."""
    return Candidate(task, TASKS[task].steps, seed)


def steps(out: Path) -> Iterator[Step]:
    """All commands, in their order."""
    run, base = out / "run", out / "base"
    yield Step(
        "find",
        (
            *("safety_neurons", "find", "--aligned", ALIGNED, "--unaligned", UNALIGNED),
            *("--out", str(run), "--limit", "48", "--ranking", "path-attribution"),
        ),
        lambda: (run / "manifest.json").is_file() and RunFolder.open(run).is_whole("find"),
    )
    yield Step(
        "base",
        (
            *("safety_neurons", "apply", str(run), "--scale", "1", "--share", "0.005"),
            *("--out", str(base)),
        ),
        base.is_dir,
    )
    for task in TASKS:
        yield _trained(out, task, 0)
    for candidate in candidates():
        yield _audited(out, candidate)
        yield _audited(out, candidate, fast=True)
        yield _judged(out, candidate)
    yield _judged(out, None)
    for seed in SEEDS:
        if seed:
            yield _trained(out, BENIGN, seed)
            yield _audited(out, last(BENIGN, seed))
    for task in TO_REPAIR:
        yield from _repaired(out, task)


def _trained(out: Path, task: str, seed: int) -> Step:
    folder = fine_tunes(out, seed)
    return Step(
        f"fine-tune {task}, seed {seed}",
        (
            *("examples.fine_tune_story.make", "--base", str(out / "base"), "--task", task),
            *("--out", str(folder), "--seed", str(seed)),
        ),
        (folder / task / f"step-{TASKS[task].steps:03}").is_dir,
    )


def _audited(out: Path, candidate: Candidate, *, fast: bool = False) -> Step:
    kind = FAST if fast else AUDITS
    folder = out / kind / candidate.name
    return Step(
        f"{'fast audit' if fast else 'audit'} of {candidate.name}",
        (
            *("safety_neurons", "audit", "--reference", str(out / "base")),
            *("--candidate", candidate.source(out), "--run", str(out / "run"), *TOKENS),
            *("--state", str(out / "state"), "--out", str(folder)),
            *(("--fast",) if fast else ()),
        ),
        lambda: folder.is_dir() or is_kept(kind, candidate.name),
        accepted=(0, 1, 3),
    )


def _judged(out: Path, candidate: Candidate | None) -> Step:
    name = "base" if candidate is None else candidate.name
    source = str(out / "base") if candidate is None else candidate.source(out)
    file = out / TRUTH / f"{name}.json"
    return Step(
        f"truth of {name}",
        (
            *("examples.fine_tune_story.truth", "--model", source, "--out", str(file)),
            *("--answers", str(out / "state" / "answers")),
        ),
        lambda: file.is_file() or is_kept(TRUTH, name),
    )


def _repaired(out: Path, task: str) -> Iterator[Step]:
    candidate, folder = last(task), out / REPAIRED / task
    others = ("--others", str(OTHERS)) if OTHERS.is_file() else ()
    yield Step(
        f"repair of {candidate.name}",
        (
            *("safety_neurons", "repair", "--aligned", str(out / "base")),
            *("--candidate", candidate.source(out), "--run", str(out / "run"), *TOKENS),
            *("--task", str(fine_tunes(out) / task / "held-out.jsonl"), "--fitted", FITTED[task]),
            *("--state", str(out / "state" / f"repair-{task}"), "--out", str(folder), *others),
        ),
        lambda: folder.is_dir() or is_kept(REPAIRED, task),
        accepted=(0, 1),
    )
    audited = out / AUDITS / f"{task}-repaired"
    yield Step(
        f"audit of the repaired {task}",
        (
            *("safety_neurons", "audit", "--reference", str(out / "base")),
            *("--candidate", str(folder), "--run", str(out / "run"), *TOKENS),
            *("--state", str(out / "state"), "--out", str(audited)),
        ),
        lambda: (
            audited.is_dir()
            or is_kept(AUDITS, audited.name)
            or not (folder / "config.json").is_file()
        ),
        accepted=(0, 1, 3),
    )
