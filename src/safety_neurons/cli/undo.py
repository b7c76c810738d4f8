"""`safety-neurons undo`: the model as it was before `apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    folder: Annotated[Path, typer.Argument(help="A folder that `apply` or `repair` wrote.")],
    out: o.Out,
) -> None:
    """Write the merged model as it was before `apply` or `repair` changed it, bit for bit."""
    from safety_neurons.storage import require_place
    from safety_neurons.studies.applying import undo

    require_place(out, folder=True)
    typer.echo(f"Written: {undo(folder, out)}")
