"""Models that read the same tokens: one alone, or a pair of two with sides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_neurons.engine import gating
from safety_neurons.engine.hooks import HookPoint
from safety_neurons.engine.sites import Site, space_of
from safety_neurons.units import BlockKey, SiteKind, UnitSpace


class Side(StrEnum):
    """Which model of a pair: the one that refuses, or its sibling that does not."""

    ALIGNED = "aligned"
    UNALIGNED = "unaligned"

    @property
    def other(self) -> Side:
        return Side.UNALIGNED if self is Side.ALIGNED else Side.ALIGNED


class Alone(StrEnum):
    """The place of a model without a sibling."""

    MODEL = "model"


ALONE = Alone.MODEL

Role = Side | Alone
"""Which model of a group. In an intervention the one that answers is the recipient; the other
one of a pair, if anything of it is read, the donor."""


@dataclass(frozen=True)
class HookedModel:
    """One model in memory (perhaps other roles' too), with its sites and its adapter's name."""

    model: PreTrainedModel
    sites: list[Site]
    adapter: str | None

    def gates(self, rows: gating.RowSpan) -> list[HookPoint]:
        """Hooks that make `rows` of the model's batch rows of this role."""
        return [] if self.adapter is None else gating.gates(self.model, self.adapter, rows)


class ModelGroup(ABC):
    """What runs on tokens: all that the engine and everything behind it ask of models."""

    tokenizer: PreTrainedTokenizerBase

    @property
    @abstractmethod
    def members(self) -> Mapping[Role, HookedModel]:
        """The models by role."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What the models and their common tokenizer are, by content."""

    @property
    def _first(self) -> HookedModel:
        return next(iter(self.members.values()))

    @property
    def shared(self) -> bool:
        """Whether all roles are rows of one model in memory."""
        return len({id(member.model) for member in self.members.values()}) == 1

    def space(self, *kinds: SiteKind) -> UnitSpace:
        """The units of some kinds of sites, of the MLP neurons if none is named.

        Returns:
            The space that all models of the group have in common.

        Raises:
            UserError: if the architecture has no such site.
        """
        return space_of(self._first.sites, kinds or (SiteKind.MLP,))

    def modules(self, space: UnitSpace) -> dict[BlockKey, str]:
        """Of each block of `space`, the Hugging Face path of the module that receives it."""
        return {site.key: site.name for site in self._first.sites if site.key in space}

    @property
    def vocabulary(self) -> int:
        """How many tokens all models have; one's rows may be padded."""
        return min(
            module.get_parameter("weight").shape[0]
            for member in self.members.values()
            for module in (
                member.model.get_input_embeddings(),
                member.model.get_output_embeddings(),
            )
        )

    @property
    def pad_id(self) -> int:
        """A token that stands where the mask hides it; any that all models have would do."""
        own = self.tokenizer.pad_token_id
        if own is not None and own < self.vocabulary:
            return own
        return min((end for end in self.end_tokens if end < self.vocabulary), default=0)

    @property
    def device(self) -> torch.device:
        return self._first.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self._first.model.dtype

    @property
    def context_length(self) -> int:
        """The most positions that all models can read."""
        return min(
            member.model.config.get_text_config().max_position_embeddings
            for member in self.members.values()
        )

    @property
    def attention_window(self) -> int | None:
        """The fewest positions that a layer of any model looks back on; None without windows."""
        windows = [
            window
            for member in self.members.values()
            if (window := getattr(member.model.config.get_text_config(), "sliding_window", None))
        ]
        return min(windows, default=None)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a completion of any model."""
        ends: set[int] = set()
        for declared in (
            self.tokenizer.eos_token_id,
            *(member.model.generation_config.eos_token_id for member in self.members.values()),
        ):
            ends.update(declared if isinstance(declared, list) else [declared])
        return frozenset(end for end in ends if end is not None)
