"""The refusal direction: the difference of means between harmful and harmless prompts.

Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction", NeurIPS 2024,
arXiv 2406.11717. One for each layer of the residual stream, at one place of the prompt; which
layer and place is the direction is for a study to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.errors import UserError

_ROUNDING = 1e-6
"""Means that differ by less, as a part of their length, are the same."""


@dataclass(frozen=True)
class Directions:
    """One direction for each layer.

    Args:
        difference: mean over harmful prompts less mean over harmless ones.
        origin: the mean over harmless ones.
    """

    difference: Float[Tensor, "layer d_model"]
    origin: Float[Tensor, "layer d_model"]

    @classmethod
    def between(
        cls,
        harmful: Float[Tensor, "prompt layer d_model"],
        harmless: Float[Tensor, "other_prompt layer d_model"],
    ) -> Directions:
        """Of the streams of two kinds of prompts.

        Returns:
            Directions in float64; zero in layers where the means are the same, such as what enters
            the first one where all prompts have the same token.

        Raises:
            UserError: where the means are the same in all layers.
        """
        origin = harmless.double().mean(dim=0)
        difference = harmful.double().mean(dim=0) - origin
        # Means of the same values differ by rounding, which would be taken for a direction.
        told = difference.norm(dim=-1) > _ROUNDING * origin.norm(dim=-1)
        difference = difference * told[:, None]
        if not bool(difference.any()):
            raise UserError(
                "Harmful and harmless prompts are the same to the model, so there is no direction "
                "between them; give prompts that differ."
            )
        return cls(difference, origin)

    @property
    def unit(self) -> Float[Tensor, "layer d_model"]:
        """Of length 1, or zero."""
        return torch.nn.functional.normalize(self.difference, dim=-1)

    @property
    def gap(self) -> Float[Tensor, "layer"]:
        """How far both means lie apart."""
        return self.difference.norm(dim=-1)

    @property
    def probes(self) -> Float[Tensor, "layer d_model"]:
        """With which a product is the part of the gap that a vector goes along the direction."""
        squares = self.difference.square().sum(dim=-1, keepdim=True)
        return torch.where(squares > 0, self.difference / squares.clamp(min=1e-300), 0.0)

    def way(self, stream: Float[Tensor, "prompt layer d_model"]) -> Float[Tensor, "prompt layer"]:
        """How far streams go along each direction: 0 the mean harmless prompt, 1 a harmful one."""
        return ((stream.double() - self.origin) * self.probes).sum(dim=-1)


def cosines(
    first: Float[Tensor, "layer d_model"], second: Float[Tensor, "layer d_model"]
) -> Float[Tensor, "layer"]:
    """Of two vectors for each layer; 0 where one of them is zero."""
    return torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1)
