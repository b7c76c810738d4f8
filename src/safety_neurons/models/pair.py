"""The two models that are contrasted, loaded as one where they share their weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_neurons.errors import UserError
from safety_neurons.hooks import HookPoint
from safety_neurons.models import adapters, comparison, embedded, gating, sources
from safety_neurons.models.sites import NeuronLayout, Site, find_sites, prove_sites
from safety_neurons.models.sources import Resolved, Source


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
        provenance: of each side its source, revision and adapter hash, for manifests.
        loading: the options with which the same pair can be loaded again.
    """

    sides: dict[Side, SideModel]
    tokenizer: PreTrainedTokenizerBase
    provenance: dict[str, dict[str, str | None]]
    loading: dict[str, bool | str | None]

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
        """Load both sides, compare them, and prove their sites.

        Args:
            aligned, unaligned: a source each, `BASE` or `BASE+ADAPTER`, where BASE is a Hub
                id, a folder, a GGUF file or `embedded:unaligned`.
            dtype: of the base weights; adapters keep theirs.
            template_from: take this side's tokenizer and chat template for both, where
                only templates or special tokens differ.

        Raises:
            UserError: listing every difference that keeps the two from being paired.
        """
        named = {Side.ALIGNED: aligned, Side.UNALIGNED: unaligned}
        found = {
            side: sources.resolve(
                Source.parse(name) if isinstance(name, str) else name,
                trust_remote_code=trust_remote_code,
            )
            for side, name in named.items()
        }
        tokenizer = _common_tokenizer(found, template_from, trust_remote_code)
        loader = _Loader(dtype, device or sources.default_device(), trust_remote_code)
        sides = loader.load(found)
        provenance = {
            str(side): {
                "source": str(r.source),
                "revision": r.revision,
                "adapter_sha256": r.adapter_hash,
            }
            for side, r in found.items()
        }
        loading: dict[str, bool | str | None] = {
            "trust_remote_code": trust_remote_code,
            "template_from": template_from,
        }
        return cls(sides, tokenizer, provenance, loading)

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


@dataclass(frozen=True)
class _Loader:
    dtype: torch.dtype
    device: str
    trust_remote_code: bool

    def load(self, found: dict[Side, Resolved]) -> dict[Side, SideModel]:
        if self._weights_are_shared(found):
            model = self._base(found[Side.ALIGNED].base)
            sides = {side: self._side(model, side, r) for side, r in found.items()}
        else:
            models = {side: self._own_model(r) for side, r in found.items()}
            sides = {side: self._side(models[side], side, r) for side, r in found.items()}
        for distinct in {id(side.model): side for side in sides.values()}.values():
            prove_sites(distinct.model, distinct.sites)
        return sides

    @staticmethod
    def _weights_are_shared(found: dict[Side, Resolved]) -> bool:
        same = found[Side.ALIGNED].base.resolve() == found[Side.UNALIGNED].base.resolve()
        return same and all(
            r.adapter is None or adapters.can_gate(r.adapter.config) for r in found.values()
        )

    def _base(self, folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
        return sources.load_model(
            folder,
            dtype=dtype or self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )

    def _own_model(self, resolved: Resolved) -> PreTrainedModel:
        adapter = resolved.adapter
        if adapter is None or adapters.can_gate(adapter.config):
            return self._base(resolved.base)
        if adapter.config["peft_type"] == "IA3":
            raise UserError(
                f"The (IA)³ adapter '{resolved.source.adapter}' also trains whole modules, and "
                "merging (IA)³ would change what a neuron means; train it without modules_to_save."
            )
        exact = torch.promote_types(self.dtype, torch.float32)
        merged = adapters.merge(self._base(resolved.base, exact), adapter.folder)
        merged.to(self.dtype)  # type: ignore[arg-type]
        return merged.eval().requires_grad_(False)

    @staticmethod
    def _side(model: PreTrainedModel, side: Side, resolved: Resolved) -> SideModel:
        adapter = resolved.adapter
        if adapter is None or not adapters.can_gate(adapter.config):
            return SideModel(model, find_sites(model), None)
        adapters.attach(model, adapter.folder, str(side))
        return SideModel(model, find_sites(model), str(side))


def _common_tokenizer(
    found: dict[Side, Resolved],
    template_from: Literal["aligned", "unaligned"] | None,
    trust_remote_code: bool,
) -> PreTrainedTokenizerBase:
    configs = {
        side: sources.load_config(r.base, trust_remote_code=trust_remote_code)
        for side, r in found.items()
    }
    tokenizers = {
        side: sources.load_tokenizer(r.base, trust_remote_code=trust_remote_code)
        for side, r in found.items()
    }
    comparison.require_comparable(
        (configs[Side.ALIGNED], configs[Side.UNALIGNED]),
        (tokenizers[Side.ALIGNED], tokenizers[Side.UNALIGNED]),
        template_chosen=template_from is not None,
    )
    return tokenizers[Side(template_from or Side.ALIGNED)]
