"""`safety-neurons audit`: what a fine-tune kept of the refusals of the model it was made of."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import concluding, explained

if TYPE_CHECKING:
    from safety_neurons.runs.audit import AuditCard
    from safety_neurons.studies.auditing import AuditPrompts


@concluding
@explained
def command(
    reference: Annotated[
        str, typer.Option(help="The model that the fine-tune should be as safe as.")
    ],
    candidate: Annotated[str, typer.Option(help="The fine-tune, named the same way.")],
    out: Annotated[Path, typer.Option(help="A new folder for the audit.")],
    run: Annotated[
        Path | None,
        typer.Option(help="A run of the reference, which names its safety neurons."),
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Also fail below this part of the reference's refusals, such as 0.9."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Write no answers, weigh their openings; needs --run.")
    ] = False,
    prompts: o.Prompts = None,
    harmless: Annotated[
        str | None, typer.Option(help="By default the built-in test split.")
    ] = None,
    borderline: Annotated[
        str | None, typer.Option(help="By default the built-in test split.")
    ] = None,
    prompt_column: o.PromptColumn = "prompt",
    limit: Annotated[int, typer.Option(help="At most so many prompts of each set.", min=1)] = 100,
    ranking: Annotated[
        str | None, typer.Option(help="Of the run; by default its primary one.")
    ] = None,
    share: Annotated[
        float | None,
        o.share_option("Which fraction of the neurons is looked at; else the chosen one."),
    ] = None,
    drift: Annotated[bool, typer.Option(help="Compare neurons.")] = True,
    judge: o.Judge = defaults.JUDGE,
    calibration: o.CalibrationFile = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Where answers are kept; audits of one reference may share it."),
    ] = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    dtype: o.DType = o.AUTO,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    system: o.System = None,
    template_arg: o.TemplateArgs = None,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Say whether a fine-tune is as safe as the model it was made of, and which neurons moved.

    Writes audit.json, junit.xml, summary.md and report.html. Exits with 0 if the safety is intact,
    1 if it is broken, lost, eroded, over-refusing or under --fail-under, 3 if it cannot be told.
    """  # noqa: DOC501
    from safety_neurons.errors import UserError
    from safety_neurons.inference import Decoding
    from safety_neurons.judges.calibration import Calibration
    from safety_neurons.prompts import ChatFormat
    from safety_neurons.report.audit import write_audit
    from safety_neurons.storage import require_place
    from safety_neurons.studies.auditing import AuditOptions, audit

    if out.exists():
        raise UserError(f"'{out}' exists already; name another folder.")
    if run is None and ranking is not None:
        raise UserError("--ranking names one of a run; give --run.")
    if fast and borderline is not None:
        raise UserError("A fast audit leaves borderline prompts out; leave out --borderline.")
    judging = o.judging_refusals(judge)
    arguments = o.parse_template_args(template_arg)
    chat = ChatFormat(system, arguments) if system is not None or arguments else None
    options = AuditOptions(
        fail_under=fail_under,
        fast=fast,
        share=share,
        ranking=ranking,
        judge=judging,
        errors=None if calibration is None else Calibration.read(calibration, judging.name),
        chat=chat,
        decoding=Decoding(max_new_tokens, batch_size),
        drift=drift,
        seed=seed,
        dtype=o.dtype_of(dtype, device),
        device=device,
        trust_remote_code=trust_remote_code,
    )
    require_place(out, folder=True)
    folder = None
    if run is not None:
        folder = o.open_run(run, ranking)
    asked = _prompts(prompts, harmless, borderline, prompt_column, limit, seed)
    kept = state or out.with_name(f"{out.name}.state")
    o.quiet_libraries()
    card = audit(
        reference,
        candidate,
        run=folder,
        prompts=asked,
        options=options,
        answers=kept / "answers",
        command=shlex.join(["safety-neurons", *sys.argv[1:]]),
        progress=o.bars(),
    )
    write_audit(card, out)
    if state is None:
        shutil.rmtree(kept / "answers", ignore_errors=True)
        with contextlib.suppress(OSError):  # something else is in it
            kept.rmdir()
    _say(card, out)
    raise typer.Exit(card.exit_code)


def _prompts(
    prompts: str | None,
    harmless: str | None,
    borderline: str | None,
    column: str,
    limit: int,
    seed: int,
) -> AuditPrompts:
    from safety_neurons.prompts import Kind, Split, builtin, load_prompts
    from safety_neurons.studies.auditing import AuditPrompts

    named = {Kind.HARMFUL: prompts, Kind.HARMLESS: harmless, Kind.BORDERLINE: borderline}
    return AuditPrompts(
        *(
            (
                builtin(kind, Split.TEST) if file is None else load_prompts(file, column=column)
            ).limited(limit, seed=seed)
            for kind, file in named.items()
        )
    )


def _say(card: AuditCard, out: Path) -> None:
    from safety_neurons.report.audit import PAGE, drift_finding

    typer.echo(f"Verdict: {card.verdict}")
    for reason in card.reasons:
        typer.echo(f"  {reason}")
    if (finding := drift_finding(card)) is not None:
        typer.echo(f"  {finding}")
    if card.fast is not None:
        typer.echo(f"  {card.fast.agreement}")
    for note in card.notes:
        typer.echo(f"  Note: {note}")
    typer.echo(f"Next: open {out / PAGE}")
