"""The command line: one file a command, each a thin layer over the library.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import typer

from safety_neurons.cli import (
    align,
    apply,
    audit,
    calibrate_judge,
    explain,
    find,
    fragility,
    generate,
    judge,
    neuron,
    repair,
    report,
    run,
    save_set,
    stability,
    train_judge,
    undo,
    validate,
)
from safety_neurons.cli.examples import epilog

app = typer.Typer(
    name="safety-neurons",
    help="Find the MLP neurons behind a language model's refusals, prove it by patching, "
    "and look at the report.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for module in (
    run,
    find,
    validate,
    stability,
    fragility,
    explain,
    neuron,
    report,
    audit,
    repair,
    save_set,
    generate,
    judge,
    calibrate_judge,
    train_judge,
    align,
    apply,
    undo,
):
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    app.command(name=name, epilog=epilog(name))(module.command)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"safety-neurons {installed('safety-neurons')}")
        raise typer.Exit
