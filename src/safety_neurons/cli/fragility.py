"""`safety-neurons fragility`: how few units a model's refusals rest on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.figures import percent

if TYPE_CHECKING:
    from safety_neurons.judges import Judge
    from safety_neurons.runs.fragility import FragilityCard
    from safety_neurons.studies.fragility import FragilityOptions


@explained
def command(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, made by `safety-neurons find`.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="One model alone instead of a run; needs --out.")
    ] = None,
    units: Annotated[
        Path | None, typer.Option("--set", help="With --model: neurons that `save-set` kept.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --model: the folder for fragility.json.")
    ] = None,
    ranking: Annotated[
        str | None, typer.Option(help="By default the run's primary ranking.")
    ] = None,
    shares: Annotated[
        str | None, typer.Option(help="Fractions of all neurons to remove, with commas.")
    ] = None,
    factors: Annotated[
        str | None, typer.Option(help="What the neurons are multiplied by, with commas.")
    ] = None,
    share: Annotated[
        float | None,
        o.share_option("The fraction that is multiplied; else the chosen one."),
    ] = None,
    singles: Annotated[
        int | None, typer.Option(help="Neurons that are removed one by one.", min=0)
    ] = None,
    attention: Annotated[
        bool, typer.Option(help="Also remove channels of the attention's output.")
    ] = True,
    judge: Annotated[str, typer.Option(help="Who says what a refusal is.")] = defaults.JUDGE,
    limit: Annotated[int, typer.Option(help="At most so many prompts of each set.", min=1)] = 64,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Where an answer is cut; by default after 20.", min=1)
    ] = None,
    seed: o.Seed = defaults.SEED,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Remove neurons of the aligned model, few to many, and count what it still refuses.

    Also multiplies them, and removes the first ones one by one. What becomes of a run is part of
    its report.
    """  # noqa: DOC501
    from safety_neurons.errors import UserError
    from safety_neurons.inference import Decoding
    from safety_neurons.studies.fragility import FragilityOptions
    from safety_neurons.studies.fragility.options import FACTORS, MAX_NEW_TOKENS, SHARES, SINGLES

    options = FragilityOptions(
        shares=SHARES if shares is None else o.parse_numbers(shares, "shares"),
        factors=FACTORS if factors is None else o.parse_numbers(factors, "factors"),
        singles=SINGLES if singles is None else singles,
        amplified_share=share,
        attention=attention,
        decoding=Decoding(max_new_tokens or MAX_NEW_TOKENS, batch_size),
        seed=seed,
    )
    judging = o.judging_refusals(judge)
    if (run is None) == (model is None):
        raise UserError("Give a run folder, or one model with --model; not both.")
    if run is not None:
        if units is not None or out is not None or trust_remote_code:
            raise UserError(
                "--set, --out and --trust-remote-code are for one model alone; a run has its own."
            )
        card = _of_run(run, options, ranking, limit, judging, device)
        said = f"Next: safety-neurons report {run}"
    else:
        assert model is not None
        if out is None:
            raise UserError("Say with --out where fragility.json goes.")
        if ranking is not None:
            raise UserError("--ranking names one of a run; give --set with one model alone.")
        card = _of_model(
            model, units, out, options, limit, judging, device, trust_remote_code=trust_remote_code
        )
        said = f"Written: {out}"
    _say(card)
    typer.echo(said)


def _of_run(
    run: Path,
    options: FragilityOptions,
    ranking: str | None,
    limit: int,
    judge: Judge,
    device: str | None,
) -> FragilityCard:
    from safety_neurons.studies.fragility import fragility

    folder = o.open_run(run, ranking)
    pair = o.reload_pair(folder, dtype=o.FLOAT32, device=device)
    return fragility(
        folder,
        pair,
        options=options,
        ranking=ranking,
        limit=limit,
        judge=judge,
        progress=o.bars(),
    )


def _of_model(
    model: str,
    units: Path | None,
    out: Path,
    options: FragilityOptions,
    limit: int,
    judge: Judge,
    device: str | None,
    *,
    trust_remote_code: bool,
) -> FragilityCard:
    from safety_neurons.models import LoadedModel
    from safety_neurons.runs.fragility import FRAGILITY
    from safety_neurons.storage import require_place, write_json
    from safety_neurons.studies.fragility import fragility_of_model
    from safety_neurons.units import load_set

    o.quiet_libraries()
    file = out / FRAGILITY
    require_place(file)
    given = None if units is None else load_set(units).units
    loaded = LoadedModel.load(model, device=device, trust_remote_code=trust_remote_code)
    card = fragility_of_model(
        loaded,
        given,
        options=options,
        answers=out / "state" / "answers",
        limit=limit,
        judge=judge,
        progress=o.bars(),
    )
    write_json(file, card.written())
    return card


def _say(card: FragilityCard) -> None:
    from safety_neurons.report.fragility import HELD, set_name

    typer.echo(f"Refusals of {card.intact.n} harmful prompts: {percent(card.intact.refusal_rate)}")
    for name in card.sets():
        points = card.curve_of(name)
        rates = ", ".join(f"{p.k:,}: {percent(p.refusal_rate)}" for p in points)
        typer.echo(f"  without {set_name(name, card.noun)} ({HELD}): {rates}")
    if card.halving_k is None or card.halving_set is None:
        typer.echo("No set of these sizes halves the refusals.")
    else:
        typer.echo(
            f"At most {card.halving_k:,} {card.noun} halve the refusals "
            f"({set_name(card.halving_set, card.noun)})."
        )
