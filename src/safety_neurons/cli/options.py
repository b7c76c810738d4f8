"""Options that several commands share, and what they mean to the library."""

from __future__ import annotations

import json
import sys
import warnings
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_neurons import defaults
from safety_neurons.errors import UserError
from safety_neurons.registry import HARM_JUDGES, JUDGES, RANKINGS

if TYPE_CHECKING:
    import torch

    from safety_neurons.judges import Judge as ChosenJudge
    from safety_neurons.judges import Judges as ChosenJudges
    from safety_neurons.models import ModelPair
    from safety_neurons.progress import Progress
    from safety_neurons.runs import RunFolder

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
HarmlessPrompts = Annotated[
    str | None,
    typer.Option(help="Harmless prompts that the default ranking reads, too; else built-in ones."),
]
PromptColumn = Annotated[str, typer.Option(help="The column that holds the prompt.")]
ResponseColumn = Annotated[str, typer.Option(help="The column with the answer.")]
Limit = Annotated[int | None, typer.Option(help="At most so many prompts of each set.", min=1)]
MaxNewTokens = Annotated[int, typer.Option(help="Where an answer is cut.", min=1)]
Seed = Annotated[
    int,
    typer.Option(help="Of draws of prompts, random sets and the bootstrap.", min=0, max=2**32 - 1),
]


class DTypeName(StrEnum):
    """The precision that weights are loaded in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT64 = "float64"


class SideName(StrEnum):
    """A model of the pair; `engine.Side`, which takes seconds to import."""

    ALIGNED = "aligned"
    UNALIGNED = "unaligned"


AUTO, FLOAT32 = DTypeName.AUTO, DTypeName.FLOAT32
_SHORT = {"fp": "float", "f": "float", "bf": "bfloat"}


def _parse_dtype(text: str) -> DTypeName:
    """A precision by its name, or as it is often called: bf16, fp32, torch.float16, half."""
    name = text.strip().lower().removeprefix("torch.")
    name = {"half": "float16", "single": "float32", "float": "float32", "double": "float64"}.get(
        name, name
    )
    letters = name.rstrip("0123456789")
    bits = name[len(letters) :]
    try:
        return DTypeName(_SHORT.get(letters, letters) + bits)
    except ValueError:
        raise typer.BadParameter(
            f"'{text}' is no precision; give {', '.join(DTypeName)} (or fp32, bf16, fp16, fp64)."
        ) from None


DType = Annotated[
    DTypeName,
    typer.Option(
        parser=_parse_dtype,
        metavar=f"[{'|'.join(DTypeName)}]",
        help="Of the weights; auto: what the processor has.",
    ),
]


def _require_device(name: str | None) -> str | None:
    """Refuse a device that the machine lacks, before anything is loaded to it."""
    if name is not None:
        from safety_neurons.models.devices import require_device

        try:
            require_device(name)
        except UserError as error:
            raise typer.BadParameter(str(error)) from None
    return name


Device = Annotated[
    str | None,
    typer.Option(callback=_require_device, help="cpu, cuda, cuda:1 …; by default the best."),
]
BatchSize = Annotated[int, typer.Option(help="Prompts that run together.", min=1)]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")
]
TemplateFrom = Annotated[
    SideName | None,
    typer.Option(help="Whose tokenizer and chat template serve both."),
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
if TYPE_CHECKING:
    RankingName = StrEnum
else:
    RankingName = RANKINGS.choices()


class SiteName(StrEnum):
    """A kind of site; `units.SiteKind`, which takes seconds to import."""

    MLP = "mlp"
    ATTENTION = "attention"


Rankings = Annotated[
    list[RankingName] | None,
    typer.Option("--ranking", help="May be repeated, the first is the primary one."),
]
Sites = Annotated[
    list[SiteName] | None,
    typer.Option(
        "--site",
        help="Whose units are ranked: MLP neurons, or channels of the attention's output "
        "projection; may be repeated, by default mlp.",
    ),
]
Judge = Annotated[
    str,
    typer.Option(
        help=f"Who gives verdicts: {', '.join(JUDGES.names())}, or the folder of a trained one."
    ),
]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help=f"Who judges refusals ({', '.join(JUDGES.names())}, or the folder of a trained one) "
        f"or harm ({', '.join(HARM_JUDGES.names())}); may be repeated.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option("--calibration", help="What calibrate-judge wrote on the first judge."),
]
Shares = Annotated[
    str, typer.Option(help="Fractions of all neurons to patch, with commas: 0.01,0.05 or 1%,5%.")
]
Strengths = Annotated[
    str,
    typer.Option(
        help="Also move the chosen neurons only so far to the donor's values: 0.25,0.5,1.5."
    ),
]
Controls = Annotated[int, typer.Option(help="Matched random sets at each share.", min=0)]
ControlShares = Annotated[
    str, typer.Option(help="Shares that have random sets, with commas; all if left out.")
]
TestedRankings = Annotated[
    list[str] | None,
    typer.Option("--ranking", help="Test this one of the run's rankings; may be repeated."),
]
ControlRankings = Annotated[
    list[str] | None,
    typer.Option(
        "--control-ranking",
        help="Draw random sets beside this ranking (and always beside the chosen set); may be "
        "repeated, all if left out.",
    ),
]
Lengths = Annotated[
    str,
    typer.Option(help="Judge answers cut after so many tokens, too, with commas, such as 20,256."),
]
Power = Annotated[
    bool,
    typer.Option(
        "--power",
        help="Say how many test prompts tell an effect of 90 % from 80 %, and stop before test.",
    ),
]


SHARES = ",".join(f"{share:g}" for share in defaults.SHARES)


def dtype_of(name: DTypeName, device: str | None) -> torch.dtype:
    """What `--dtype` names, on the device that `--device` names."""
    from safety_neurons.models.devices import dtype_named

    return dtype_named(str(name), device)


def parse_numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers with commas between them, 0.05 or 5%; none for an empty text."""
    try:
        return tuple(_parse_number(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(
            f"'{text}' is no list of {what}; write numbers with commas, such as 0.01,0.05 or 1%,5%."
        ) from None


def _parse_number(text: str) -> float:
    number, percent, rest = text.partition("%")
    if rest.strip():
        raise ValueError(text)
    if not percent:
        return float(number)
    try:  # by its digits, so that 0.7% is 0.007 and no neighbour of it
        return float(Decimal(number.strip()).scaleb(-2))
    except InvalidOperation:
        raise ValueError(text) from None


def share_option(said: str) -> Any:
    """An option that is one share, 0.05 or 5%, with its help."""
    return typer.Option(parser=parse_share, metavar="FRACTION", help=said)


def parse_share(text: str) -> float:
    """A fraction, 0.05 or 5%."""
    try:
        return _parse_number(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no fraction; write 0.05 or 5%.") from None


def parse_counts(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers with commas between them; none for an empty text."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(
            f"'{text}' is no list of {what}; write whole numbers with commas, such as 20,256."
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


def judging(names: list[str] | None, calibration: Path | None) -> ChosenJudges:
    """The judges that options name; a calibration is shown to be the first one's."""
    from safety_neurons.judges import judges_of
    from safety_neurons.judges.calibration import Calibration

    judges = judges_of(names or defaults.JUDGE)
    if calibration is not None:
        Calibration.read(calibration, judges.first.name)
    return judges


def judging_refusals(name: str) -> ChosenJudge:
    """The judge of refusals that an option names."""
    from safety_neurons.judges import judges_of

    return judges_of(name).first


def open_run(run: Path, *rankings: str | None) -> RunFolder:
    """A run whose neurons are ranked, also by the rankings that options name."""
    from safety_neurons.runs import RunFolder
    from safety_neurons.studies.sets import rankings_of

    folder = RunFolder.open(run)
    folder.require("find")
    if named := [name for name in rankings if name is not None]:
        rankings_of(folder, named)
    return folder


def load_pair(
    aligned: str,
    unaligned: str,
    *,
    dtype: DTypeName,
    device: str | None,
    trust_remote_code: bool = False,
    template_from: SideName | None = None,
) -> ModelPair:
    """The pair that options name."""
    from safety_neurons.engine import Side
    from safety_neurons.models import ModelPair

    if aligned == unaligned:  # before anything is loaded
        raise UserError(
            f"Both sides are '{aligned}'; give the one that refuses as --aligned and a sibling "
            "that does not as --unaligned."
        )
    quiet_libraries()
    return ModelPair.load(
        aligned,
        unaligned,
        dtype=dtype_of(dtype, device),
        device=device,
        trust_remote_code=trust_remote_code,
        template_from=None if template_from is None else Side(template_from).value,
    )


def reload_pair(run: RunFolder, *, dtype: DTypeName, device: str | None) -> ModelPair:
    """The pair that a run was made on."""
    from safety_neurons.runs import reload_pair

    quiet_libraries()
    return reload_pair(run, dtype=dtype_of(dtype, device), device=device)


def quiet_libraries() -> None:
    """Our own bars and errors speak, and downloads; the libraries' other bars and advice do not."""
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    transformers.logging.set_verbosity_error()
    unwanted = are_progress_bars_disabled()
    transformers.logging.disable_progress_bar()  # of both libraries
    if not unwanted:
        enable_progress_bars()
    # PEFT asks for an attribute that transformers has renamed; users can't mend that.
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)


def bars() -> Progress:
    """Progress on standard error: bars on a terminal, lines in a log."""
    from safety_neurons.progress import Bars, Lines

    return Bars() if sys.stderr.isatty() else Lines()
