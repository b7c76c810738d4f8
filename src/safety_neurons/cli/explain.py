"""`safety-neurons explain`: what the neurons of a run's set do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained

if TYPE_CHECKING:
    from safety_neurons.runs import RunFolder
    from safety_neurons.runs.explanation import ExplanationCard
    from safety_neurons.studies.explanation import ExplanationPrompts


@explained
def command(
    run: o.Run,
    share: Annotated[
        float | None,
        o.share_option("The fraction of all neurons; else what `validate` chose, or 0.02."),
    ] = None,
    ranking: Annotated[
        str | None, typer.Option(help="By default the run's primary ranking.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Harmful prompts of your own; needs --harmless.")
    ] = None,
    harmless: Annotated[
        str | None, typer.Option(help="Harmless prompts, best matched in topic.")
    ] = None,
    prompt_column: Annotated[str, typer.Option(help="Where their texts are.")] = "prompt",
    judge: Annotated[str, typer.Option(help="Who says what a refusal is.")] = defaults.JUDGE,
    limit: Annotated[
        int | None, typer.Option(help="At most so many prompts of each set (48).", min=2)
    ] = None,
    controls: Annotated[
        int | None, typer.Option(help="Random sets beside each intervention (2).", min=0)
    ] = None,
    exact: Annotated[
        int | None, typer.Option(help="Neurons held one by one, and random ones (64).", min=0)
    ] = None,
    pages: Annotated[
        int | None, typer.Option(help="Neurons that are looked at closely (20).", min=0)
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="What each model reads for their examples (30,000).", min=2)
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Where an answer is cut; by default after 20.", min=1)
    ] = None,
    seed: o.Seed = defaults.SEED,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
) -> None:
    """Say which neurons detect harm, raise refusal and steer the output, and test it.

    Each effect stands beside those of all neurons outside the set; each stage is then knocked out
    of the aligned model and patched into the unaligned one. What becomes of it is part of the
    report.
    """
    from safety_neurons.inference import Decoding
    from safety_neurons.studies.explanation import ExplainOptions, explain
    from safety_neurons.studies.explanation.corpus import TOKENS
    from safety_neurons.studies.explanation.options import CONTROLS, EXACT, MAX_NEW_TOKENS, PAGES

    options = ExplainOptions(
        share=share,
        controls=CONTROLS if controls is None else controls,
        exact=EXACT if exact is None else exact,
        pages=PAGES if pages is None else pages,
        tokens=tokens or TOKENS,
        decoding=Decoding(max_new_tokens or MAX_NEW_TOKENS, batch_size),
        seed=seed,
    )
    judging = o.judging_refusals(judge)
    folder = o.open_run(run, ranking)
    given = _prompts(folder, prompts, harmless, prompt_column, limit, seed)
    card = explain(
        folder,
        o.reload_pair(folder, dtype=o.FLOAT32, device=device),
        given,
        options,
        ranking=ranking,
        limit=limit,
        judge=judging,
        progress=o.bars(),
    )
    _say(card)
    typer.echo(f"Next: safety-neurons report {run}")


def _prompts(
    run: RunFolder,
    harmful: str | None,
    harmless: str | None,
    column: str,
    limit: int | None,
    seed: int,
) -> ExplanationPrompts | None:
    """Those of the files named; None for the built-in ones."""
    from safety_neurons.errors import UserError
    from safety_neurons.prompts import load_prompts
    from safety_neurons.runs import COMPLETIONS
    from safety_neurons.studies.explanation import ExplanationPrompts
    from safety_neurons.studies.explanation.options import LIMIT

    if harmful is None and harmless is None:
        return None
    if harmful is None or harmless is None:
        raise UserError("Harmful and harmless prompts are compared; give --prompts and --harmless.")
    found = load_prompts(run.result("find", COMPLETIONS))
    return ExplanationPrompts.of_files(
        harmful, harmless, limit or LIMIT, found=found, column=column, seed=seed
    )


def _say(card: ExplanationCard) -> None:
    typer.echo(f"Pipeline: {card.verdict}")
    for reason in card.reasons:
        typer.echo(f"  {reason}")
