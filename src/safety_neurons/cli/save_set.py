"""`safety-neurons save-set`: the top neurons of a run as an artifact of their own."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    run: o.Run,
    share: Annotated[
        float,
        o.share_option("The fraction of all neurons to save."),
    ],
    out: o.Out,
    ranking: Annotated[
        str | None, typer.Option(help="By default the run's primary ranking.")
    ] = None,
) -> None:
    """Save the top neurons of a ranking, with a card that says where they come from."""
    from safety_neurons.runs import RunFolder
    from safety_neurons.storage import require_place
    from safety_neurons.studies.sets import save_top_units

    require_place(out, folder=True)
    folder = RunFolder.open(run)
    typed = shlex.join(["safety-neurons", *sys.argv[1:]])
    units = save_top_units(folder, out, share, ranking, command=typed)
    typer.echo(f"Saved {len(units):,} neurons: {out} (card.json says what they are)")
