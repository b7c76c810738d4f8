"""`safety-neurons calibrate-judge`: how often a judge errs on labelled answers."""

from __future__ import annotations

from typing import Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.figures import bounded


@explained
def command(
    labelled: Annotated[
        str,
        typer.Argument(help="Answers with a label each: refusal, partial or compliance."),
    ],
    out: o.Out,
    judge: o.Judge = defaults.JUDGE,
    prompt_column: o.PromptColumn = "prompt",
    response_column: o.ResponseColumn = "response",
    label_column: Annotated[str, typer.Option(help="The column with the label.")] = "label",
) -> None:
    """Measure a judge's sensitivity and specificity, so that rates can be corrected for its errors.

    Rows may name a `condition` (unaligned, aligned, patched, or one of your own): each gets figures
    of its own. Give the result to `validate --calibration`.
    """
    from safety_neurons.studies.calibrating import calibrate_judge

    found = calibrate_judge(
        labelled,
        out,
        judge=judge,
        prompt_column=prompt_column,
        response_column=response_column,
        label_column=label_column,
    )
    for name, errors in (("all", found), *found.conditions.items()):
        figures = ", ".join(
            f"{what} {bounded(part.value, part.share.interval)} of {part.n}"
            for what, part in (
                ("sensitivity", errors.sensitivity),
                ("specificity", errors.specificity),
            )
        )
        typer.echo(f"{name}: {figures}")
    typer.echo(f"{found.judge}, {found.n} answers. Wrote {out}")
