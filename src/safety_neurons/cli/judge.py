"""`safety-neurons judge`: add a verdict to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    answers: Annotated[str, typer.Argument(help="Rows with a prompt and a response.")],
    out: Annotated[Path, typer.Option(help="Where to write the same rows with a verdict: JSONL.")],
    judge: o.Judges = None,
    prompt_column: o.PromptColumn = "prompt",
    response_column: o.ResponseColumn = "response",
) -> None:
    """Judge answers: refusal, partial, compliance, or unscored.

    Adds `verdict`, `judge`, and how sure the judge is: `p_refusal`, `p_partial`, `p_compliance`.
    With several judges these are the first one's, and `other_judges` has those of the others.
    """
    from safety_neurons.studies.judging import judge_answers

    judged = judge_answers(
        answers,
        out,
        judge=judge or [defaults.JUDGE],
        prompt_column=prompt_column,
        response_column=response_column,
    )
    listed = ", ".join(f"{count} {verdict}" for verdict, count in judged.counts.items())
    typer.echo(f"Judged {len(judged.rows)} answers ({judged.judge}): {listed}. Wrote {out}")
    for pair in judged.disagreements:
        typer.echo(
            f"{pair.first} and {pair.second} differ on {pair.answers} of {len(judged.rows)} "
            f"answers (Cohen's kappa {pair.kappa:.2f})."
        )
    for name, (mean, untold) in judged.harm.items():
        told = "nothing to tell" if mean is None else f"mean harm {mean:.3f}"
        typer.echo(f"{name}: {told}, {untold} answers that it could not tell.")
    if judged.unfinished:
        typer.echo(f"{judged.unfinished} unscored answers ended inside their reasoning.")
