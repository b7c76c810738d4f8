"""`safety-neurons train-judge`: train the judge of refusals anew."""

from __future__ import annotations

from typing import Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.figures import bounded, percent


@explained
def command(
    out: o.Out,
    answers: Annotated[
        list[str] | None,
        typer.Option(
            help="Answers to train on, too: rows with a `label`, or ones that labels are kept of."
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="What the judge is called by; else a digest.")
    ] = None,
    seed: o.Seed = defaults.SEED,
) -> None:
    """Train the classifier of refusals, and measure it on models and languages left out in turn.

    Without --answers it is trained on composed and written rows and on answers of the embedded
    models, which is less than what the judge in this package had (docs/judges.md).
    """
    from safety_neurons.studies.judge_training import train_judge

    judge = train_judge(out, answers or (), version=version, seed=seed, progress=o.bars())
    for agreement in (*judge.agreement.models, *judge.agreement.languages):
        typer.echo(
            f"{agreement.source}: {bounded(agreement.agrees, agreement.interval)} of "
            f"{agreement.n}; a phrase list {percent(agreement.phrase_list)}"
        )
    typer.echo(f"Calibration error: {judge.agreement.calibration_error:.3f}")
    if judge.missing:
        typer.echo(f"{judge.missing} labels had no answer; give the files with --answers.")
    typer.echo(f"{judge.name}, trained on {judge.rows} rows. Wrote {judge.folder}")
