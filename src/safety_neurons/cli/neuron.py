"""`safety-neurons neuron`: single neurons of a run looked at closely."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained

if TYPE_CHECKING:
    from safety_neurons.runs.neuronpages import NeuronPage

_LISTED = 5


@explained
def command(
    run: o.Run,
    neurons: Annotated[
        list[str], typer.Argument(help="Names such as L12.N345, as the report lists them.")
    ],
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="A text file to look for examples in; else harmless prompts and answers."
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(help="At most so many tokens of it are read.", min=2)
    ] = 30_000,
    limit: Annotated[
        int, typer.Option(help="Harmful prompts that are tried for refusals.", min=1)
    ] = 64,
    judge: Annotated[str, typer.Option(help="Who says what a refusal is.")] = defaults.JUDGE,
    device: o.Device = None,
) -> None:
    """Show what single neurons read and write, where they are active, and what they do.

    Writes a page for each into the run's folder `neurons`. Any neuron of the run's models can be
    named.
    """
    from safety_neurons.report.neuronpage import neuron_page_html
    from safety_neurons.storage import write_text
    from safety_neurons.studies.explanation.looking import look, page_file, require_names

    judging = o.judging_refusals(judge)
    folder = o.open_run(run)
    require_names(folder, neurons)
    pages = look(
        folder,
        o.reload_pair(folder, dtype=o.FLOAT32, device=device),
        neurons,
        corpus=corpus,
        tokens=tokens,
        limit=limit,
        judge=judging,
        progress=o.bars(),
    )
    for page in pages.pages:
        file = page_file(folder, page.unit, "html")
        alone = pages.model_copy(update={"pages": [page]})
        write_text(file, neuron_page_html(alone, folder.path.resolve().name))
        _say(page)
        typer.echo(f"  Page: {file}")


def _say(page: NeuronPage) -> None:
    from safety_neurons.report.neuronpage import effect_sentence, strongest, token_text

    typer.echo(page.unit)
    places = ", ".join(f"{rank:,} by {name}" for name, rank in page.ranks.items())
    typer.echo(f"  Place: {places}")
    if page.stages is not None:
        typer.echo(f"  Stages: {', '.join(page.stages) or 'none that stands out from its layer'}")
    for reading in page.readings:
        tokens = " ".join(token_text(each.token) for each in reading.highest[:_LISTED])
        typer.echo(f"  {reading.of.capitalize()}: {tokens}")
    if (found := strongest(page)) is not None:
        model, at = found
        text = f"{at.before}>>{at.token}<<{at.after}".replace("\n", " ")
        typer.echo(f"  {at.value:.3g} in the {model} model: {text}")
    typer.echo(f"  {effect_sentence(page.scaled)}")
