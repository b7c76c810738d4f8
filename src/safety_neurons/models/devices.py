"""What the machine has to compute on, and in which precision."""

from __future__ import annotations

from pathlib import Path

import torch

from safety_neurons.errors import UserError, reason_of


def best_generation_dtype(device: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo")
    has = flags.is_file() and any(flag in flags.read_text() for flag in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if has and "AVX512" in capabilities else torch.float32


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(name: str) -> None:
    """Raise UserError unless `name` is a device that this machine has."""
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # "meta" holds no numbers
    except Exception as error:  # torch tells it with RuntimeError, AssertionError and others
        has = "cpu" + "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise UserError(
            f"The device '{name}' cannot be used ({reason_of(error, 120)}); this machine has {has}."
        ) from error


DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Precisions that can be asked for by name, beside `auto`."""


def dtype_named(name: str, device: str | None) -> torch.dtype:
    """The precision called `name`; `auto` is the best one for generation on the device.

    Returns:
        One of torch's floating point types.

    Raises:
        UserError: for another name, or a device that the machine lacks.
    """
    if name == "auto":
        device = default_device() if device is None else device
        require_device(device)
        return best_generation_dtype(device)
    if name not in DTYPES:
        raise UserError(f"'{name}' is no dtype; give auto, {', '.join(DTYPES)}.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
