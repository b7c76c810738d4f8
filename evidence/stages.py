"""What is run for each pair: commands of this package, one after the other, each resumable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from evidence.pairs import UNALIGNED, Pair
from safety_neurons.prompts import Kind, PromptSet, Split, builtin
from safety_neurons.runs import RunFolder

SHARES = "0.002,0.005,0.01,0.02,0.05,0.1,0.2,1"
PRIMARY, PAPERS = "path-attribution", "change-score"
CONTROLS = ("--controls", "3", "--control-ranking", PRIMARY)
FEW = (
    *("--ranking", PRIMARY, "--shares", "0.002,0.005,0.01,0.02,1"),
    *(*CONTROLS, "--control-shares", "0.005"),
)
"""Where a claim is repeated: the default ranking, four shares."""
PROMPTS = "100"
FOUND_ON = "60"
OTHER_PEOPLES = Path("../shared/data/harmful_train.jsonl")
"""Prompts of other people (AdvBench, MaliciousInstruct, TDC 2023, HarmBench), where they are."""


@dataclass(frozen=True)
class Stage:
    """One command, and whether it has been done.

    Args:
        prepare: what it needs first, such as a copy of a run.
    """

    name: str
    arguments: tuple[str, ...]
    done: Callable[[], bool]
    prepare: Callable[[], None] | None = None


def stages(pair: Pair, out: Path) -> Iterator[Stage]:
    """The stages of one pair, in order, but for its stability."""
    adapters, run = out / "adapters", out / pair.name
    if not pair.shipped:
        adapter = adapters / pair.name
        yield Stage(
            f"{pair.name}: train",
            ("align", "--out", str(adapter), "--dtype", "float32", *pair.training),
            adapter.is_dir,
        )
    yield Stage(
        f"{pair.name}: find",
        (
            *("find", "--aligned", pair.source(adapters), "--unaligned", UNALIGNED),
            *("--out", str(run), "--limit", FOUND_ON),
            *_rankings(pair),
        ),
        _complete(run, "find"),
    )
    tested = (*CONTROLS, "--control-shares", "0.005,0.01,0.02,0.05")
    yield Stage(
        f"{pair.name}: validate",
        (
            *("validate", str(run), "--limit", PROMPTS, "--shares", SHARES, *tested),
            *(("--strengths", "0.5,1.5", "--lengths", "20,40,256") if pair.shipped else ()),
        ),
        _complete(run, "validate"),
    )
    if pair.shipped:
        yield from _confirmed(pair, out, run)


def _rankings(pair: Pair) -> tuple[str, ...]:
    """Of the shipped pairs one more, plain attribution, to compare with."""
    between = ("--ranking", "attribution") if pair.shipped else ()
    return ("--ranking", PRIMARY, *between, "--ranking", PAPERS)


def stability_stage(pair: Pair, out: Path, others: tuple[Pair, ...]) -> Stage:
    """The stability card of one pair, beside all others; needs their validations."""
    run = out / pair.name
    beside = [str(out / other.name) for other in others if other is not pair]
    return Stage(
        f"{pair.name}: stability",
        ("stability", str(run), *beside, "--limit", FOUND_ON),
        _complete(run, "stability"),
    )


def _confirmed(pair: Pair, out: Path, run: Path) -> Iterator[Stage]:
    """The same rankings on prompts that were written afterwards, and on other people's."""
    confirm = out / f"{pair.name}-confirm"
    yield Stage(
        f"{pair.name}: confirm",
        (
            *("validate", str(confirm), "--prompts", str(out / "confirm.jsonl")),
            *("--harmless", str(out / "confirm-harmless.jsonl"), *FEW),
        ),
        _complete(confirm, "validate"),
        lambda: _prepare(run, confirm, out),
    )
    if OTHER_PEOPLES.is_file():
        others = out / f"{pair.name}-others"
        yield Stage(
            f"{pair.name}: other people's prompts",
            (
                *("validate", str(others), "--prompts", str(OTHER_PEOPLES), "--limit", PROMPTS),
                *FEW,
            ),
            _complete(others, "validate"),
            lambda: _prepare(run, others, out),
        )


def _prepare(run: Path, copy: Path, out: Path) -> None:
    """A run folder with the same rankings, and the prompts to confirm on as files."""
    if not copy.is_dir():
        draft = copy.with_name(f"{copy.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(run, draft, ignore=shutil.ignore_patterns("summary.json", "report.html"))
        draft.rename(copy)
    select = builtin(Kind.HARMFUL, Split.SELECT).limited(50)
    _write(out / "confirm.jsonl", select, "select")
    _write(out / "confirm.jsonl", builtin(Kind.HARMFUL, Split.CONFIRM), "test", more=True)
    _write(out / "confirm-harmless.jsonl", builtin(Kind.HARMLESS, Split.CONFIRM), "test")


def _write(file: Path, prompts: PromptSet, split: str, *, more: bool = False) -> None:
    rows = [
        json.dumps({"id": p.id, "prompt": p.text, "category": p.category, "split": split})
        for p in prompts
    ]
    with file.open("a" if more else "w", encoding="utf-8") as opened:
        opened.write("".join(f"{row}\n" for row in rows))


def _complete(run: Path, stage: str) -> Callable[[], bool]:
    # Whole, not complete: a copied run says that it was validated, and has no summary yet.
    return lambda: (run / "manifest.json").is_file() and RunFolder.open(run).is_whole(stage)
