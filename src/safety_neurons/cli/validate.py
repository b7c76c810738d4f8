"""`safety-neurons validate`: prove a run's neurons by patching."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained

if TYPE_CHECKING:
    from safety_neurons.prompts import PromptSet
    from safety_neurons.validation import TestPrompts, ValidateOptions

SHARES = "0.005,0.01,0.02,0.05,0.1,0.2,1"
OtherPrompts = Annotated[str | None, typer.Option(help="By default the built-in test split.")]


@explained
def command(
    run: o.Run,
    prompts: o.Prompts = None,
    harmless: OtherPrompts = None,
    borderline: OtherPrompts = None,
    shares: o.Shares = SHARES,
    controls: o.Controls = 3,
    strengths: o.Strengths = "",
    prompt_column: o.PromptColumn = "prompt",
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = 40,
    seed: o.Seed = 0,
    dtype: o.DType = "auto",
    device: o.Device = None,
    batch_size: o.BatchSize = 32,
) -> None:
    """Patch the ranked neurons between the models and measure what it does to refusals."""
    from safety_neurons.artifacts import RunFolder
    from safety_neurons.validation import validate

    folder = RunFolder.open(run)
    folder.require("find")
    asked = test_prompts(prompts, harmless, borderline, prompt_column, seed)
    options = validate_options(shares, controls, strengths, max_new_tokens, batch_size, seed)
    pair = o.load_pair_of(folder, dtype=dtype, device=device)
    summary = validate(folder, pair, asked.limited(limit, seed=seed), options, progress=o.bars())
    print_summary(summary)
    typer.echo(f"Next: safety-neurons report {run}")


def validate_options(
    shares: str, controls: int, strengths: str, max_new_tokens: int, batch_size: int, seed: int
) -> ValidateOptions:
    """The library's options for those of the command line."""
    from safety_neurons.generation import Decoding
    from safety_neurons.validation import ValidateOptions

    return ValidateOptions(
        o.parse_numbers(shares, "shares"),
        controls,
        o.parse_numbers(strengths, "strengths"),
        Decoding(max_new_tokens, batch_size),
        seed,
    )


def test_prompts(
    harmful: str | None, harmless: str | None, borderline: str | None, column: str, seed: int
) -> TestPrompts:
    """The built-in prompts, with files in the place of those that were named."""
    from dataclasses import replace

    from safety_neurons.prompts import load_prompts
    from safety_neurons.validation import TestPrompts

    chosen = TestPrompts.builtin()
    if harmful is not None:
        select, test = _select_and_test(harmful, column, seed)
        chosen = replace(chosen, select=select, test=test)
    if harmless is not None:
        chosen = replace(chosen, harmless=load_prompts(harmless, column=column))
    if borderline is not None:
        chosen = replace(chosen, borderline=load_prompts(borderline, column=column))
    return chosen


def _select_and_test(source: str, column: str, seed: int) -> tuple[PromptSet, PromptSet]:
    """The file's own splits `select` and `test`, or a third of its rows to choose on."""
    from safety_neurons.prompts import prompts_of, read_rows, splits_of

    rows = read_rows(source)
    taken = functools.partial(prompts_of, rows, source, column=column)
    if {"select", "test"} <= splits_of(rows, source):
        return taken(split="select"), taken(split="test")
    return taken().divided(1 / 3, seed=seed)


def print_summary(summary: dict[str, Any]) -> None:
    """The main figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Effect of patching the top neurons (test split)", title_justify="left")
    for name in ("ranking", "share", "neurons", "effect", "95 % interval", "random sets"):
        table.add_column(name, justify="right" if name != "ranking" else "left")
    for row in summary["curve"]:
        if row["split"] == "test":
            table.add_row(
                row["ranking"],
                f"{row['share']:.1%}",
                f"{row['k']:,}",
                _number(row["causal_effect"]),
                f"{_number(row['ci_low'])} to {_number(row['ci_high'])}",
                _number(row["control_mean"]),
            )
    Console().print(table)
    for side in ("unaligned", "aligned"):
        detail = summary[side]["details"]["refusal_rate"]
        typer.echo(
            f"The {side} model refuses {_number(detail['value'])} of {detail['n']} harmful "
            f"prompts ({detail['unscored']} unscored)."
        )
        _tell_unfinished(side, summary[side].get("unfinished_reasoning") or 0)


def _tell_unfinished(side: str, count: int) -> None:
    if count:
        typer.secho(
            f"{count} answers of the {side} model to all prompts ended inside their reasoning and "
            "are unscored; give a larger --max-new-tokens, or find again in a new folder without "
            "reasoning (for Qwen 3: `find --template-arg enable_thinking=false`).",
            fg=typer.colors.YELLOW,
        )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
