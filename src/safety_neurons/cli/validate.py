"""`safety-neurons validate`: prove a run's neurons by patching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.figures import bounds, percent, share

if TYPE_CHECKING:
    from safety_neurons.runs import Summary
    from safety_neurons.studies.validation import ValidateOptions

OtherPrompts = Annotated[str | None, typer.Option(help="By default the built-in test split.")]


@explained
def command(
    run: o.Run,
    prompts: o.Prompts = None,
    harmless: OtherPrompts = None,
    borderline: OtherPrompts = None,
    ranking: o.TestedRankings = None,
    shares: o.Shares = o.SHARES,
    controls: o.Controls = defaults.CONTROLS,
    control_shares: o.ControlShares = "",
    control_ranking: o.ControlRankings = None,
    lengths: o.Lengths = "",
    strengths: o.Strengths = "",
    judge: o.Judges = None,
    calibration: o.CalibrationFile = None,
    prompt_column: o.PromptColumn = "prompt",
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    dtype: o.DType = o.AUTO,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    power: o.Power = False,
) -> None:
    """Patch the ranked neurons between the models and measure what it does to refusals."""
    from safety_neurons.studies.validation import TestPrompts, plan_prompts, validate

    judges = o.judging(judge, calibration)
    folder = o.open_run(run, *(ranking or ()), *(control_ranking or ()))
    tested = TestPrompts.of_files(prompts, harmless, borderline, column=prompt_column, seed=seed)
    options = validate_options(
        shares,
        controls,
        control_shares,
        lengths,
        strengths,
        max_new_tokens,
        batch_size,
        seed,
        rankings=ranking,
        control_rankings=control_ranking,
    )
    pair = o.reload_pair(folder, dtype=dtype, device=device)
    if power:
        _tell_power(
            plan_prompts(
                folder,
                pair,
                tested.limited(limit, seed=seed),
                options,
                judge=judges.first,
                progress=o.bars(),
            ),
            len(tested.test),
        )
        return
    summary = validate(
        folder,
        pair,
        tested.limited(limit, seed=seed),
        options,
        judge=judges,
        calibration=calibration,
        progress=o.bars(),
    )
    print_summary(summary)
    typer.echo(f"Next: safety-neurons report {run}")


def _tell_power(needed: int | None, there: int) -> None:
    if needed is None:
        typer.echo(
            "The two models' refusals differ too little on the select prompts, or the prompts are "
            "too few, to say how many are needed."
        )
        return
    typer.echo(
        f"About {needed:,} test prompts tell an effect of 90 % from one of 80 % (95 % confidence, "
        f"80 % power); there are {there:,}."
    )


def validate_options(
    shares: str,
    controls: int,
    control_shares: str,
    lengths: str,
    strengths: str,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    *,
    rankings: list[str] | None = None,
    control_rankings: list[str] | None = None,
) -> ValidateOptions:
    """The library's options for those of the command line."""
    from safety_neurons.inference import Decoding
    from safety_neurons.studies.validation import ValidateOptions

    return ValidateOptions(
        shares=o.parse_numbers(shares, "shares"),
        controls=controls,
        control_shares=o.parse_numbers(control_shares, "control shares") or None,
        strengths=o.parse_numbers(strengths, "strengths"),
        rankings=tuple(rankings) if rankings else None,
        control_rankings=tuple(control_rankings) if control_rankings else None,
        lengths=o.parse_counts(lengths, "lengths"),
        decoding=Decoding(max_new_tokens, batch_size),
        seed=seed,
    )


def print_summary(summary: Summary) -> None:
    """The main figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Effect of patching the top neurons (test split)", title_justify="left")
    for name in ("ranking", "share", "neurons", "effect", "95 % interval", "random sets"):
        table.add_column(name, justify="right" if name != "ranking" else "left")
    for point in summary.on("test"):
        table.add_row(
            point.ranking,
            share(point.share),
            f"{point.k:,}",
            percent(point.causal_effect),
            bounds(point.interval),
            percent(point.control_mean),
        )
    Console().print(table)
    for side, rates in (("unaligned", summary.unaligned), ("aligned", summary.aligned)):
        refusals = rates.details["refusal_rate"]
        typer.echo(
            f"The {side} model refuses {percent(refusals.value)} of {refusals.n} harmful "
            f"prompts ({refusals.unscored} unscored)."
        )
        _tell_unfinished(side, rates.unfinished_reasoning or 0)


def _tell_unfinished(side: str, count: int) -> None:
    if count:
        typer.secho(
            f"{count} answers of the {side} model to all prompts ended inside their reasoning and "
            "are unscored; give a larger --max-new-tokens, or find again in a new folder without "
            "reasoning (for Qwen 3: `find --template-arg enable_thinking=false`).",
            fg=typer.colors.YELLOW,
        )
