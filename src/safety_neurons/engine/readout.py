"""From the residual stream to logits: the last norm and the unembedding, held at one reading.

What a part of the residual stream says directly is what it adds to the logits where everything
behind it is held: later blocks' outputs, and the scales of the norms on the way. Both are then
linear, so a direction of logits can be drawn back through them once for all units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from safety_neurons.engine.effective import effective
from safety_neurons.engine.group import HookedModel
from safety_neurons.engine.hooks import ModuleTap
from safety_neurons.errors import UserError

_CENTRED = 1e-4


@dataclass(frozen=True)
class Held:
    """A norm held at what it read: a scale for each coordinate, after centring where it centres.

    Args:
        scale: by which each coordinate is multiplied, `… d_model`.
    """

    scale: Float[Tensor, "... d_model"]
    centred: bool

    @classmethod
    def at(cls, norm: nn.Module, read: Tensor, given: Tensor) -> Held:
        """The norm as it was when it made `given` of `read`.

        Returns:
            Its linear part: what is added to `read` comes out times `scale`.
        """
        wide = torch.promote_types(read.dtype, torch.float32)
        centred, shift = _form(norm, read)
        entered = read.to(wide)
        entered = entered - entered.mean(dim=-1, keepdim=True) if centred else entered
        # A coordinate that is exactly zero says nothing of its scale.
        left = given.to(wide) - shift.to(wide)
        safe = entered.where(entered != 0, torch.ones_like(entered))
        return cls(torch.where(entered != 0, left / safe, torch.zeros_like(left)), centred)

    def back(self, direction: Tensor) -> Tensor:
        """The direction before the norm that gives as much as `direction` does behind it."""
        drawn = direction * self.scale
        return drawn - drawn.mean(dim=-1, keepdim=True) if self.centred else drawn


@dataclass(frozen=True)
class Readout:
    """The last norm and the unembedding of a model.

    Args:
        unembedding: `vocab d_model`, the model's adapter in it.
    """

    norm: nn.Module
    unembedding: Float[Tensor, "vocab d_model"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedModel) -> Readout:
        """Found by where the trunk's output comes from.

        Raises:
            UserError: if no norm makes it.
        """  # noqa: DOC201
        plain = model.model
        leaves = [m for m in plain.base_model.modules() if not any(True for _ in m.children())]
        tap = ModuleTap(m for m in leaves if "norm" in type(m).__name__.lower())
        tokens = torch.ones(1, 3, dtype=torch.long, device=plain.device)
        with tap.hooks:
            last = plain.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        # Not the very object: some models give a view of what their norm made.
        found = [norm for norm, made in tap.given.items() if made.data_ptr() == last.data_ptr()]
        if not found:
            raise UserError(
                f"'{plain.config.model_type}' has no norm before its unembedding that could be "
                "held, so nothing can be said of what its parts say directly."
            )
        names = {id(module): name for name, module in plain.named_modules()}
        head = plain.get_output_embeddings()
        weight, _ = effective(model, names[id(head)])
        return cls(found[0], weight)


def _form(norm: nn.Module, read: Tensor) -> tuple[bool, Tensor]:
    """Whether a norm centres what it reads, and what it adds."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, read.shape[-1], generator=generator, dtype=torch.float64)
    x = drawn.to(read.device, read.dtype)
    with torch.no_grad():
        there, back, moved = norm(x[None])[0], norm(-x[None])[0], norm(x[None] + 3.0)[0]
    centred = float((there - moved).abs().max()) <= _CENTRED * float(there.abs().max())
    shift = (there + back).mean(dim=0) / 2
    small = float(shift.abs().max()) <= 1e-6 * float(there.abs().max())
    return centred, torch.zeros_like(shift) if small else shift
