"""`safety-neurons report`: render a run, or several side by side, as one HTML page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from safety_neurons.cli.errors import explained


@explained
def command(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run folder, or several to compare.", metavar="RUN..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where a comparison goes; by default comparison.html in the first run."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a run's report, or compare several runs: a page that opens offline; needs no model."""
    from safety_neurons.errors import UserError
    from safety_neurons.report import COMPARISON, render_comparison, render_report
    from safety_neurons.runs import RunFolder
    from safety_neurons.storage import require_place

    folders = [RunFolder.open(run) for run in runs]
    if len(folders) == 1:
        if out is not None:
            raise UserError("--out is for comparing runs; one run's report goes into its folder.")
        page = render_report(folders[0])
        typer.echo(f"Report: {page}")
    else:
        out = out or folders[0].file(COMPARISON)
        require_place(out)
        page = render_comparison(folders, out)
        typer.echo(f"Comparison: {page}")
    if show and not webbrowser.open(page.resolve().as_uri()):
        typer.echo("No browser was found here; open the file by hand.", err=True)
