"""`safety-neurons apply`: a model, strengthened, as an ordinary checkpoint."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained
from safety_neurons.figures import percent

if TYPE_CHECKING:
    from safety_neurons.studies.applying import Applied


@explained
def command(
    out: o.Out,
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, made by `safety-neurons find`.")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="What the neurons' activations are multiplied by; 1 or more."),
    ] = None,
    transplant: Annotated[
        bool,
        typer.Option("--transplant", help="Give --model these neurons of the run's aligned model."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="With --transplant the model that is changed; with --set the only one."),
    ] = None,
    share: Annotated[
        float | None,
        o.share_option("Of a run: the fraction of all neurons that is changed."),
    ] = None,
    ranking: Annotated[
        str | None, typer.Option(help="By default the run's primary ranking.")
    ] = None,
    units: Annotated[
        Path | None,
        typer.Option("--set", help="Instead of a run: neurons that `save-set` kept, of --model."),
    ] = None,
    judge: Annotated[str, typer.Option(help="Who says what a refusal is.")] = defaults.JUDGE,
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Write a plain checkpoint with neurons amplified, or with those of the run's aligned model.

    Adapters are folded in. Refusals of harmful prompts are measured before and after; a drop is
    refused. `undo` gives the model back.
    """
    from safety_neurons.inference import Decoding
    from safety_neurons.prompts import Kind, Split, builtin
    from safety_neurons.storage import require_place
    from safety_neurons.studies import applying
    from safety_neurons.units import load_set

    _require_one_way(
        run=run, scale=scale, transplant=transplant, model=model, share=share, units=units
    )
    require_place(out, folder=True)
    options = applying.ApplyOptions(
        prompts=builtin(Kind.HARMFUL, Split.SELECT).limited(limit, seed=seed),
        judge=o.judging_refusals(judge),
        decoding=Decoding(max_new_tokens, batch_size),
        command=shlex.join(["safety-neurons", *sys.argv[1:]]),
        device=device,
    )
    o.quiet_libraries()
    bars = o.bars()
    if run is None:
        assert model is not None
        assert units is not None
        assert scale is not None
        applied = applying.apply_scale_to(
            model,
            load_set(units).units,
            out,
            scale,
            options,
            trust_remote_code=trust_remote_code,
            progress=bars,
        )
    elif transplant:
        assert model is not None
        assert share is not None
        applied = applying.apply_transplant(
            o.open_run(run, ranking),
            model,
            out,
            share,
            ranking,
            options,
            trust_remote_code=trust_remote_code,
            progress=bars,
        )
    else:
        assert scale is not None
        assert share is not None
        applied = applying.apply_scale(
            o.open_run(run, ranking), out, scale, share, ranking, options, progress=bars
        )
    _say(applied)


def _require_one_way(
    *,
    run: Path | None,
    scale: float | None,
    transplant: bool,
    model: str | None,
    share: float | None,
    units: Path | None,
) -> None:
    """Demand that the options say one thing."""
    from safety_neurons.errors import UserError

    if transplant == (scale is not None):
        raise UserError("Say what is done, with --scale S or with --transplant; not both.")
    if run is None:
        if transplant:
            raise UserError("A transplant takes neurons of a run's aligned model; name a run.")
        if model is None or units is None:
            raise UserError("Name a run folder, or one model with --model and neurons with --set.")
        if share is not None:
            raise UserError("--share is of a run's ranking; a set is taken whole.")
        return
    if units is not None:
        raise UserError("--set is for one model alone; a run has its own neurons, see --share.")
    if share is None:
        raise UserError("Say with --share which fraction of the run's neurons is changed.")
    if transplant and model is None:
        raise UserError("Say with --model which model gets the neurons.")
    if not transplant and model is not None:
        raise UserError("A run scales its own aligned model; --model goes with --transplant.")


def _say(applied: Applied) -> None:
    record = applied.record
    if record.refusals:
        before, after, n = (record.refusals[key] for key in ("before", "after", "n"))
        typer.echo(
            f"Harmful prompts refused: {percent(before)} before, {percent(after)} after "
            f"(of {n:.0f})."
        )
    typer.echo(
        f"Written: {applied.folder} ({record.dtype}; logits differ from the live model's by "
        f"{record.difference:.1e} of the largest)"
    )
