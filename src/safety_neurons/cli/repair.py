"""`safety-neurons repair`: give a fine-tune its refusals back without training its task away."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import concluding, explained
from safety_neurons.figures import percent

if TYPE_CHECKING:
    from safety_neurons.runs.repair import RepairRecord


@concluding
@explained
def command(
    aligned: Annotated[str, typer.Option(help="The model that the fine-tune was made of.")],
    candidate: Annotated[str, typer.Option(help="The fine-tune, named the same way.")],
    run: Annotated[Path, typer.Option(help="A run of the aligned model, which names neurons.")],
    task: Annotated[
        Path,
        typer.Option(help="Rows of the fine-tune's task, held out: prompt and completion."),
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the repaired checkpoint.")],
    prompts: o.Prompts = None,
    harmless: Annotated[
        str | None, typer.Option(help="Harmless prompts; by default built-in ones.")
    ] = None,
    borderline: Annotated[
        str | None, typer.Option(help="Borderline prompts to fit on; by default built-in ones.")
    ] = None,
    others: Annotated[
        str | None, typer.Option(help="Harmful prompts of other people, to claim on, too.")
    ] = None,
    prompt_column: o.PromptColumn = "prompt",
    shares: Annotated[
        str | None, typer.Option(help="Fractions of all neurons to transplant, with commas.")
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option(help="How far to the aligned model's weights, with commas: 0.5,1."),
    ] = None,
    fitted: Annotated[
        str | None,
        typer.Option(help="Fractions of all neurons whose scales are fitted, with commas."),
    ] = None,
    limit: Annotated[
        int, typer.Option(help="At most so many prompts of each kind to claim on.", min=1)
    ] = 100,
    ranking: Annotated[
        str | None, typer.Option(help="Of the run; by default its primary one.")
    ] = None,
    judge: o.Judge = defaults.JUDGE,
    state: Annotated[
        Path | None,
        typer.Option(help="Where what was measured is kept; by default beside --out, until done."),
    ] = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    dtype: o.DType = o.FLOAT32,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Look for the smallest change of a fine-tune's neurons that brings refusals back.

    Writes a plain checkpoint with repair.json and undo.safetensors, and exits with 0; where no
    change meets the targets it writes repair.json alone, and exits with 1.
    """  # noqa: DOC501
    from safety_neurons.errors import UserError
    from safety_neurons.inference import Decoding
    from safety_neurons.storage import require_place
    from safety_neurons.studies.repairing import (
        RepairOptions,
        RepairPrompts,
        RepairTask,
        forget,
        repair,
    )
    from safety_neurons.studies.repairing.options import FITTED_SHARES, SHARES, STRENGTHS

    if out.exists():
        raise UserError(f"'{out}' exists already; name another folder.")
    options = RepairOptions(
        shares=SHARES if shares is None else o.parse_numbers(shares, "shares"),
        strengths=STRENGTHS if strengths is None else o.parse_numbers(strengths, "strengths"),
        fitted=FITTED_SHARES if fitted is None else o.parse_numbers(fitted, "shares"),
        ranking=ranking,
        judge=o.judging_refusals(judge),
        decoding=Decoding(max_new_tokens, batch_size),
        seed=seed,
        dtype=o.dtype_of(dtype, device),
        device=device,
        trust_remote_code=trust_remote_code,
    )
    require_place(out, folder=True)
    folder = o.open_run(run, ranking)
    rows = RepairTask.of_file(task, seed)
    asked = RepairPrompts.of_files(
        prompts, harmless, borderline, others, column=prompt_column, limit=limit, seed=seed
    )
    kept = state or out.with_name(f"{out.name}.state")
    o.quiet_libraries()
    record = repair(
        aligned,
        candidate,
        folder,
        rows,
        out,
        prompts=asked,
        options=options,
        state=kept,
        command=shlex.join(["safety-neurons", *sys.argv[1:]]),
        progress=o.bars(),
    )
    if state is None:
        forget(kept)
    _say(record, out)
    raise typer.Exit(record.exit_code)


def _say(record: RepairRecord, out: Path) -> None:
    from safety_neurons.runs.repair import REPAIR

    for row in [*record.tried, *record.baselines]:
        if row.weighed is not None:
            typer.echo(
                f"  {row.name}: {percent(row.way or 0.0)} of the way to refusing as the aligned "
                f"model does, {percent(row.gain_kept)} of the task's gain"
            )
    if record.chosen is not None:
        typer.echo(f"Chosen: {record.chosen}")
    for note in record.notes:
        typer.echo(f"  Note: {note}")
    for reason in record.reasons:
        typer.echo(f"  {reason}")
    typer.echo(f"Written: {out if record.repaired else out / REPAIR}")
