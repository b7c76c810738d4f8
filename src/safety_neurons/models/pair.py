"""The two models that are contrasted, loaded as one where they share their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from safety_neurons.engine import HookedModel, ModelGroup, Role, Side
from safety_neurons.models import embedded
from safety_neurons.storage import digest

if TYPE_CHECKING:
    from safety_neurons.models.sources import Source


@dataclass(frozen=True)
class ModelPair(ModelGroup):
    """An aligned model and its unaligned sibling, ready to run on the same tokens.

    Where both sides are one base model up to gateable adapters, `shared` is true and the
    two `HookedModel`s hold the same module: the sides are then rows of one batch
    (`safety_neurons.engine.rows`).

    Args:
        tokenizer: the one that serves both sides.
        provenance: of each side, as `LoadedModel` describes it.
        loading: the options with which the same pair can be loaded again.
        notes: sentences on what was found while loading and a user should know.
    """

    sides: dict[Side, HookedModel]
    tokenizer: PreTrainedTokenizerBase
    provenance: dict[str, dict[str, Any]]
    loading: dict[str, bool | str | None]
    notes: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        aligned: str | Source,
        unaligned: str | Source,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
        trust_remote_code: bool = False,
        template_from: Literal["aligned", "unaligned"] | None = None,
    ) -> ModelPair:
        """Load both sides, compare them, and prove their sites and adapters.

        Args:
            aligned, unaligned: a source each, `BASE` or `BASE+ADAPTER`, where BASE is a Hub
                id, a folder, a GGUF file or `embedded:unaligned`.
            dtype: of the base weights; adapters keep theirs.
            template_from: take this side's tokenizer and chat template for both, where
                only templates or special tokens differ.

        Returns:
            The pair in evaluation mode, its weights frozen.

        Raises:
            UserError: listing every difference that keeps the two from being paired.
        """
        # Loading needs pairs, to prove adapters with the engine, and gives them.
        from safety_neurons.models.loading import load_pair

        return load_pair(
            {Side.ALIGNED: aligned, Side.UNALIGNED: unaligned},
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            template_from=template_from,
        )

    @classmethod
    def embedded(
        cls, *, dtype: torch.dtype = torch.float32, device: str | None = None
    ) -> ModelPair:
        """The pair that comes with this package: SmolLM2-135M-Instruct and its adapter."""
        return cls.load(embedded.ALIGNED, embedded.UNALIGNED, dtype=dtype, device=device)

    @property
    def members(self) -> Mapping[Role, HookedModel]:
        return {side: self.sides[side] for side in Side}

    @property
    def identity(self) -> str:
        files = {side: entry["files"] for side, entry in self.provenance.items()}
        return identity_of(files, self.loading["template_from"])


def identity_of(files: Mapping[str, Mapping[str, str]], template_from: Any) -> str:
    """What a pair is, by content.

    Args:
        files: of each side, the sha256 of every file that decides it.
        template_from: whose tokenizer and chat template serve both, None for the same.

    Returns:
        A digest.
    """
    return digest(files, template_from)
