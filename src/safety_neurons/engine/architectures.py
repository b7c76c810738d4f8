"""Where each architecture keeps its units: names of the modules that read them.

To support another architecture, describe it here and name it in `registry.ARCHITECTURES`; from
outside, register an `Architecture` there. The parity tests run over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from safety_neurons.units import SiteKind


@dataclass(frozen=True)
class Architecture:
    """The sites of one model type.

    Args:
        sites: for each kind, a pattern of the names of its modules, one a layer; its first group
            is the layer's number.
        writers: for each kind whose units single projections make, their names beside the site's
            module. What is not named here can be ranked and patched, and not transplanted.
    """

    sites: Mapping[SiteKind, str]
    writers: Mapping[SiteKind, tuple[str, ...]] = field(default_factory=dict)


GATED = Architecture(
    {
        SiteKind.MLP: r"\.layers\.(\d+)\.mlp\.down_proj$",
        SiteKind.ATTENTION: r"\.layers\.(\d+)\.self_attn\.o_proj$",
        SiteKind.RESIDUAL: r"\.layers\.(\d+)$",
    },
    {SiteKind.MLP: ("gate_proj", "up_proj")},
)
"""Llama and all that is built like it."""

GATED_BESIDE_IMAGES = Architecture(
    {kind: f"language_model{pattern}" for kind, pattern in GATED.sites.items()},
    GATED.writers,
)
"""The same, beside an encoder of images whose modules have the same names."""

GPT2 = Architecture(
    {
        SiteKind.MLP: r"\.h\.(\d+)\.mlp\.c_proj$",
        SiteKind.ATTENTION: r"\.h\.(\d+)\.attn\.c_proj$",
        SiteKind.RESIDUAL: r"\.h\.(\d+)$",
    },
    {SiteKind.MLP: ("c_fc",)},
)

GPT_NEOX = Architecture(
    {
        SiteKind.MLP: r"\.layers\.(\d+)\.mlp\.dense_4h_to_h$",
        SiteKind.ATTENTION: r"\.layers\.(\d+)\.attention\.dense$",
        SiteKind.RESIDUAL: r"\.layers\.(\d+)$",
    },
    {SiteKind.MLP: ("dense_h_to_4h",)},
)
