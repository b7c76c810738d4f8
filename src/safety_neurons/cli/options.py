"""Options that several commands share, and what they mean to the library."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_neurons.errors import UserError

if TYPE_CHECKING:
    import torch

    from safety_neurons.artifacts import RunFolder
    from safety_neurons.models import ModelPair, Source
    from safety_neurons.progress import Progress

Aligned = Annotated[
    str,
    typer.Option(
        help="The model that refuses: a Hub id, a folder or a .gguf file, or BASE+ADAPTER."
    ),
]
Unaligned = Annotated[str, typer.Option(help="Its sibling that does not, named the same way.")]
Run = Annotated[Path, typer.Argument(help="A run folder, made by `safety-neurons find`.")]
Out = Annotated[Path, typer.Option(help="Where to write.")]
Prompts = Annotated[
    str | None,
    typer.Option(help="Harmful prompts: a .jsonl, .csv or .parquet file, or hub:owner/name."),
]
PromptColumn = Annotated[str, typer.Option(help="The column that holds the prompt.")]
Limit = Annotated[int | None, typer.Option(help="At most so many prompts of each set.", min=1)]
MaxNewTokens = Annotated[int, typer.Option(help="Where an answer is cut.", min=1)]
Seed = Annotated[
    int,
    typer.Option(help="Of draws of prompts, random sets and the bootstrap.", min=0, max=2**32 - 1),
]
DType = Annotated[
    str, typer.Option(help="float32, bfloat16, float16, float64; auto: what the processor has.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …; by default the best.")]
BatchSize = Annotated[int, typer.Option(help="Prompts that run together.", min=1)]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")
]
TemplateFrom = Annotated[
    str | None,
    typer.Option(help="aligned or unaligned: whose tokenizer and chat template serve both."),
]
System = Annotated[str | None, typer.Option(help="A system prompt; by default the template's.")]
TemplateArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        metavar="NAME=VALUE",
        help="An argument of the chat template: enable_thinking=false; may be repeated.",
    ),
]
Rankings = Annotated[
    list[str] | None,
    typer.Option(
        "--ranking", help="attribution or change-score; may be repeated, the first is primary."
    ),
]
Shares = Annotated[
    str, typer.Option(help="Fractions of all neurons to patch, with commas between them.")
]
Strengths = Annotated[
    str,
    typer.Option(
        help="Also move the chosen neurons only so far to the donor's values: 0.25,0.5,1.5."
    ),
]
Controls = Annotated[int, typer.Option(help="Matched random sets at each share.", min=0)]


def parse_dtype(name: str, device: str | None) -> torch.dtype:
    import torch

    from safety_neurons.models import devices

    if name == "auto":
        device = devices.default_device() if device is None else device
        devices.require_device(device)
        return devices.best_generation_dtype(device)
    known = ("float32", "bfloat16", "float16", "float64")
    if name not in known:
        raise UserError(f"'{name}' is no dtype; give auto, {', '.join(known)}.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def parse_numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers with commas between them; none for an empty text."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(
            f"'{text}' is no list of {what}; write fractions with commas, such as 0.01,0.05."
        ) from None


def parse_template_args(given: list[str] | None) -> dict[str, Any]:
    """Names with values, each as JSON where it is some, else as text."""
    arguments: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise UserError(
                f"'{text}' is no template argument; write NAME=VALUE, such as "
                "enable_thinking=false."
            )
        if name.strip() in arguments:
            raise UserError(f"The template argument '{name.strip()}' is given twice; give it once.")
        arguments[name.strip()] = _parse_value(value)
    return arguments


_TRUTHS = ("true", "false", "yes", "no", "on", "off")


def _parse_value(text: str) -> Any:
    # Python's spelling, too: to a template, the text "False" is true.
    plain = text.strip().lower() if text.strip() in ("True", "False") else text
    if plain.strip().lower() in _TRUTHS and plain.strip() not in ("true", "false"):
        raise UserError(
            f"'{text}' is a text to a template, and so true; write true or false (or "
            f"'\"{text}\"' if the text is meant)."
        )
    try:
        return json.loads(plain, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text


def parse_choice(text: str, choices: Any, what: str) -> Any:
    """The member of an enumeration that `text` names."""
    try:
        return choices(text)
    except ValueError:
        raise UserError(
            f"'{text}' is no {what}; give one of {', '.join(str(c.value) for c in choices)}."
        ) from None


def load_pair(
    aligned: str | Source,
    unaligned: str | Source,
    *,
    dtype: str,
    device: str | None,
    trust_remote_code: bool = False,
    template_from: str | None = None,
) -> ModelPair:
    from safety_neurons.models import ModelPair, Side

    quiet_libraries()
    side = None if template_from is None else parse_choice(template_from, Side, "side")
    return ModelPair.load(
        aligned,
        unaligned,
        dtype=parse_dtype(dtype, device),
        device=device,
        trust_remote_code=trust_remote_code,
        template_from=side,
    )


def load_pair_of(run: RunFolder, *, dtype: str, device: str | None) -> ModelPair:
    """The pair that a run was made on, and no other.

    Raises:
        UserError: if any file that decides what the models do has changed.
    """
    from safety_neurons.artifacts.folder import DAMAGED
    from safety_neurons.errors import reading
    from safety_neurons.finding.run import require_same_models
    from safety_neurons.models import Source

    models, loading = run.fact("models"), run.fact("loading")
    with reading(run.manifest_file, remedy=DAMAGED):
        aligned, unaligned = (
            Source(**models[side]["location"])
            if "location" in models[side]
            else Source.parse(models[side]["source"])
            for side in ("aligned", "unaligned")
        )
    pair = load_pair(
        aligned,
        unaligned,
        dtype=dtype,
        device=device,
        trust_remote_code=bool(loading.get("trust_remote_code")),
        template_from=loading.get("template_from"),
    )
    require_same_models(run, pair)
    return pair


def quiet_libraries() -> None:
    """Our own bars and errors speak; the libraries' progress and advice do not."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # PEFT asks for an attribute that transformers has renamed; users can't mend that.
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)


def bars() -> Progress:
    from safety_neurons.progress import Bars

    return Bars()
