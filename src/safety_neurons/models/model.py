"""One model, ready to run: in memory, with its sites, its tokenizer and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from safety_neurons.engine import ALONE, HookedModel, ModelGroup, Role
from safety_neurons.storage import digest

if TYPE_CHECKING:
    from safety_neurons.models.sources import Source


@dataclass(frozen=True)
class LoadedModel(ModelGroup):
    """A model without a sibling: a group of one.

    Args:
        hooked: the model in memory, its sites, and its adapter's name.
        provenance: for manifests: its source as it was named; its location, which names the same
            from anywhere; its revision; the sha256 of every file that decides it.
        notes: sentences on what was found while loading and a user should know.
    """

    hooked: HookedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        source: str | Source,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> LoadedModel:
        """Load a model, and prove its sites and its adapter.

        Args:
            source: `BASE` or `BASE+ADAPTER`, where BASE is a Hub id, a folder, a GGUF file or
                `embedded:unaligned`.
            dtype: of the base weights; an adapter keeps its own.

        Returns:
            The model in evaluation mode, its weights frozen.

        Raises:
            UserError: if it cannot be read, is not whole, or its adapter cannot be run.
        """
        # Loading needs the engine's proofs, and gives this.
        from safety_neurons.models.loading import load_model

        return load_model(source, dtype=dtype, device=device, trust_remote_code=trust_remote_code)

    @property
    def members(self) -> Mapping[Role, HookedModel]:
        return {ALONE: self.hooked}

    @property
    def identity(self) -> str:
        return digest(self.provenance["files"])
