"""`safety-neurons report`: render a run as one HTML page."""

from __future__ import annotations

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(run: o.Run) -> None:
    """Write the run's report, a page that opens offline; needs no model."""
    from safety_neurons.artifacts import RunFolder
    from safety_neurons.report import render_report

    typer.echo(f"Report: {render_report(RunFolder.open(run))}")
