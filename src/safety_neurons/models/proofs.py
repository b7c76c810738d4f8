"""What is loaded is shown to be what it should be: a probe batch, and logits to compare.

Nothing that a library or this package does with an adapter is taken on trust: not that its
tensors were read, not that gated rows or merged weights act as PEFT's own layers do, not
that it acts at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.engine import ModelGroup, PairedRows, Role, Tokens
from safety_neurons.engine.rounding import ALLOWED, distance
from safety_neurons.errors import UserError, reading

COARSE = 0.1
"""Of the largest logit, in half precisions, whose rounding alone can be a hundredth."""
ROOM = 10
"""How many times as far apart as PEFT's own logits in batches of two sizes logits may lie."""
_ROWS, _POSITIONS = 2, 12

Logits = Float[Tensor, "batch pos vocab"]


@dataclass(frozen=True)
class Reference:
    """What one side must give on the probe.

    Args:
        adapter: how the user named the adapter, None for the plain model.
        logits: PEFT's own, or the plain model's where there is no adapter.
        rounding: how far these lie from the same ones in a batch of twice the rows, as a share
            of the largest.
    """

    adapter: str | None
    logits: Logits
    rounding: float

    @classmethod
    def of(cls, adapter: str | None, model: Any, tokens: Int[Tensor, "batch pos"]) -> Reference:
        """Run a plain model, or PEFT's own.

        Returns:
            Its logits, and how far these depend on the batch.

        Raises:
            UserError: if its logits are not finite numbers.
        """
        logits = logits_of(model, tokens)
        twice = logits_of(model, torch.cat([tokens, tokens]))
        return cls(adapter, logits, distance(twice[: len(tokens)], logits))

    def allowed(self, dtype: torch.dtype) -> float:
        """What the same logits in this precision may differ in, as a share of the largest."""
        return max(ALLOWED.get(dtype, COARSE), min(ROOM * self.rounding, COARSE))


def probe_tokens(vocabulary: int, also: Iterable[int] = ()) -> Int[Tensor, "batch pos"]:
    """A few rows of tokens from all over the vocabulary, always the same.

    Args:
        also: tokens that must be among them.

    Returns:
        Token ids below `vocabulary`; every row ends with those of `also` that are.
    """
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(vocabulary, (_ROWS, _POSITIONS), generator=draw)
    wanted = torch.tensor([token for token in also if token < vocabulary], dtype=torch.long)
    return torch.cat([rows, wanted.expand(_ROWS, -1)], dim=1)


@torch.no_grad()
def logits_of(model: Any, tokens: Int[Tensor, "batch pos"]) -> Logits:
    """What a plain model, or PEFT's own, gives at every position.

    Returns:
        Logits, `batch pos vocab`, on the model's device.

    Raises:
        UserError: if these are not finite numbers.
    """
    device = next(model.parameters()).device
    with reading(
        getattr(model.config, "_name_or_path", "The model"),
        fault="does not run",
        remedy="correct its config.json, or save the model again with save_pretrained",
    ):
        logits = model(input_ids=tokens.to(device), use_cache=False).logits
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            "The model's logits are not finite numbers; try another --dtype (some architectures "
            "need float32), and if that does not help, the weights are damaged."
        )
    return logits


def require_effect(adapter: str, with_it: Logits, without: Logits) -> None:
    """Raise UserError if an adapter changes no logit at all."""
    if torch.equal(with_it, without):
        raise UserError(
            f"The adapter '{adapter}' changes no logit of its base model, so it does nothing; give "
            "the one that was trained (an untrained one, or one of other layers, looks like this)."
        )


def require_same(adapter: str, found: Logits, wanted: Reference) -> float:
    """Demand that logits are PEFT's own, up to rounding.

    Returns:
        The `distance`.

    Raises:
        UserError: if they differ by more.
    """
    apart = distance(found, wanted.logits)
    allowed = wanted.allowed(found.dtype)
    if not apart <= allowed:
        raise UserError(
            f"The adapter '{adapter}' cannot be run as PEFT runs it: logits differ by {apart:.2g} "
            f"of the largest, where {allowed:.2g} is allowed; merge it into a checkpoint where it "
            "was trained, and give that."
        )
    return apart


@torch.no_grad()
def prove_adapters(
    group: ModelGroup, tokens: Int[Tensor, "batch pos"], references: Mapping[Role, Reference]
) -> list[str]:
    """Show that each model of `group` gives its reference when all run together.

    Returns:
        Sentences on how far off they are, in precisions in which that is not nothing.

    Raises:
        UserError: naming an adapter whose rows differ from PEFT's own.
    """
    named = [reference.adapter for reference in references.values() if reference.adapter]
    if not named:
        return []
    ids = tokens.to(group.device)
    read = Tokens(ids, torch.ones_like(ids))
    with PairedRows(group, dict.fromkeys(references, len(ids))) as rows:
        found = rows.forward(dict.fromkeys(references, read), logits=ids.shape[1])
    notes = []
    for role, reference in references.items():
        # The plain side of a pair is not what the other side's adapter makes of it.
        name = reference.adapter or named[0]
        apart = require_same(name, found[role], reference)
        if group.dtype not in ALLOWED and reference.adapter:
            notes.append(
                f"The adapter '{name}' as it is run here and as PEFT runs it differ by {apart:.2%} "
                f"of the largest logit in {str(group.dtype).removeprefix('torch.')}."
            )
    return notes
