"""The two models that are contrasted, loaded as one where they share their weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_neurons.artifacts import digest
from safety_neurons.hooks import HookPoint
from safety_neurons.models import embedded, gating
from safety_neurons.models.sites import NeuronLayout, Site

if TYPE_CHECKING:
    from safety_neurons.models.sources import Source


class Side(StrEnum):
    """Which of the two models: the one that refuses, or its sibling that does not."""

    ALIGNED = "aligned"
    UNALIGNED = "unaligned"

    @property
    def other(self) -> Side:
        return Side.UNALIGNED if self is Side.ALIGNED else Side.ALIGNED


@dataclass(frozen=True)
class SideModel:
    """One side: a model in memory (perhaps the other side's too) and its adapter's name."""

    model: PreTrainedModel
    sites: list[Site]
    adapter: str | None

    def gates(self, rows: gating.RowSpan) -> list[HookPoint]:
        """Hooks that make `rows` of the model's batch rows of this side."""
        return [] if self.adapter is None else gating.gates(self.model, self.adapter, rows)


@dataclass(frozen=True)
class ModelPair:
    """An aligned model and its unaligned sibling, ready to run on the same tokens.

    Where both sides are one base model up to gateable adapters, `shared` is true and the
    two `SideModel`s hold the same module: the sides are then rows of one batch
    (`safety_neurons.models.rows`).

    Args:
        provenance: of each side, for manifests: its source as it was named; its location, which
            names the same from anywhere; its revision; the sha256 of every file that decides it.
        loading: the options with which the same pair can be loaded again.
        notes: sentences on what was found while loading and a user should know.
    """

    sides: dict[Side, SideModel]
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

        Raises:
            UserError: listing every difference that keeps the two from being paired.
        """
        # Loading needs the engine, to prove adapters, and the engine needs pairs.
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
    def shared(self) -> bool:
        """Whether both sides are rows of one model in memory."""
        return self.sides[Side.ALIGNED].model is self.sides[Side.UNALIGNED].model

    @property
    def identity(self) -> str:
        """What both models and their common tokenizer are, by content."""
        files = {side: entry["files"] for side, entry in self.provenance.items()}
        return digest(files, self.loading["template_from"])

    @property
    def vocabulary(self) -> int:
        """How many tokens both models have; one side's rows may be padded."""
        return min(
            module.get_parameter("weight").shape[0]
            for side in self.sides.values()
            for module in (side.model.get_input_embeddings(), side.model.get_output_embeddings())
        )

    @property
    def pad_id(self) -> int:
        """A token that stands where the mask hides it; any that both models have would do."""
        own = self.tokenizer.pad_token_id
        if own is not None and own < self.vocabulary:
            return own
        return min((end for end in self.end_tokens if end < self.vocabulary), default=0)

    @property
    def layout(self) -> NeuronLayout:
        return NeuronLayout(tuple(site.width for site in self.sides[Side.ALIGNED].sites))

    @property
    def device(self) -> torch.device:
        return self.sides[Side.ALIGNED].model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.sides[Side.ALIGNED].model.dtype

    @property
    def context_length(self) -> int:
        """The most positions that both models can read."""
        return min(
            side.model.config.get_text_config().max_position_embeddings
            for side in self.sides.values()
        )

    @property
    def attention_window(self) -> int | None:
        """The fewest positions that a layer of either model looks back on; None without windows."""
        windows = [
            window
            for side in self.sides.values()
            if (window := getattr(side.model.config.get_text_config(), "sliding_window", None))
        ]
        return min(windows, default=None)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a completion on either side."""
        ends: set[int] = set()
        for declared in (
            self.tokenizer.eos_token_id,
            *(side.model.generation_config.eos_token_id for side in self.sides.values()),
        ):
            ends.update(declared if isinstance(declared, list) else [declared])
        return frozenset(end for end in ends if end is not None)
