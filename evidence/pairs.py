"""The pairs that claims are made on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

UNALIGNED = "embedded:unaligned"


@dataclass(frozen=True)
class Pair:
    """An aligned model beside `UNALIGNED`.

    Args:
        aligned: its source; None for one that is trained first.
        training: options of `safety-neurons align` that make it.
        what: for the page.
    """

    name: str
    what: str
    aligned: str | None = None
    training: tuple[str, ...] = ()

    @property
    def shipped(self) -> bool:
        """Whether it comes with the package; on these more is measured."""
        return self.aligned is not None

    def source(self, adapters: Path) -> str:
        """What `--aligned` names."""
        return self.aligned or f"{UNALIGNED}+{adapters / self.name}"


PAIRS = (
    Pair("lora", "LoRA on gate and up, seed 0, as shipped", "embedded:aligned"),
    Pair("ia3", "(IA)³ on the neurons, as shipped", "embedded:aligned-ia3"),
    Pair("lora-seed1", "LoRA on gate and up, seed 1", training=("--seed", "1")),
    Pair("lora-seed2", "LoRA on gate and up, seed 2", training=("--seed", "2")),
    Pair("lora-all", "LoRA on all attention and MLP projections", training=("--modules", "all")),
)
