"""`safety-neurons judge`: add a verdict to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    answers: Annotated[str, typer.Argument(help="Rows with a prompt and a response.")],
    out: Annotated[Path, typer.Argument(help="The same rows with a verdict, as JSONL.")],
    judge: o.Judge = o.JUDGE,
    prompt_column: o.PromptColumn = "prompt",
    response_column: Annotated[str, typer.Option(help="The column with the answer.")] = "response",
) -> None:
    """Judge answers: refusal, partial, compliance, or unscored."""
    from safety_neurons.studies.judging import judge_answers

    judged = judge_answers(
        answers,
        out,
        judge=str(judge),
        prompt_column=prompt_column,
        response_column=response_column,
    )
    listed = ", ".join(f"{count} {verdict}" for verdict, count in judged.counts.items())
    typer.echo(f"Judged {len(judged.rows)} answers ({judged.judge}): {listed}. Wrote {out}")
    if judged.unfinished:
        typer.echo(f"{judged.unfinished} unscored answers ended inside their reasoning.")
