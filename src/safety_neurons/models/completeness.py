"""What a checkpoint lacks, has too much of, or has in another shape than its configuration says.

transformers only warns of it, and goes on with random weights where tensors are missing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safety_neurons.errors import gathered

_IN_A_LAYER = re.compile(r"\.\d+\.")
_DEAD = re.compile(
    r"masked_bias$|\.(attn|attention)\.bias$|inv_freq$|\.[kv]_scale$|\.[kv]_proj\.output_scale$"
)
"""Buffers that older versions saved, and scales of quantised caches: no weights."""
_NAMED = 3


def require_whole(source: Path | str, loading: Mapping[str, Any]) -> list[str]:
    """Demand that every weight of the model came from the checkpoint.

    Args:
        loading: what transformers' `from_pretrained(..., output_loading_info=True)` gives.

    Returns:
        A sentence on tensors that were not read, where the model is complete without them (a
        reward head), else nothing.

    Raises:
        UserError: naming tensors that are missing, that have another shape, or that belong to
            a layer and have no place in the model.
    """  # noqa: DOC501
    unread = set(loading["unexpected_keys"])
    of_layers = {name for name in unread if _IN_A_LAYER.search(name) and not _DEAD.search(name)}
    wrong_shapes = {
        f"{name} ({tuple(found)} where {tuple(wanted)} is needed)"
        for name, found, wanted in loading["mismatched_keys"]
    }
    faults = [
        f"{len(names)} tensors {what}: {listed(names)}"
        for what, names in (
            ("are missing", set(loading["missing_keys"])),
            ("have another shape", wrong_shapes),
            ("have no place in the model", of_layers),
        )
        if names
    ]
    if faults:
        raise gathered(
            faults,
            headline=f"The checkpoint '{source}' is not what its configuration says",
            remedy="Save the model again with save_pretrained (without the prefixes that wrappers "
            "of distributed or compiled training add to names).",
        )
    if not unread:
        return []
    return [
        f"'{source}' has {len(unread)} tensors that the model has no place for, so they are not "
        f"used: {listed(unread)}."
    ]


def listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(sorted(names)[:_NAMED])
    return first if len(names) <= _NAMED else f"{first} and {len(names) - _NAMED} more"
