"""Rank the channels of attention's output projection beside the MLP neurons."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from safety_neurons import (
    Decoding,
    FindOptions,
    Kind,
    ModelPair,
    SiteKind,
    Split,
    builtin,
    find,
    top_units,
)


def main(pair: ModelPair, out: Path, *, limit: int = 16, share: float = 0.01) -> Counter[str]:
    """How many of the top units are of which kind."""
    options = FindOptions(sites=(SiteKind.MLP, SiteKind.ATTENTION), decoding=Decoding(20))
    run = find(pair, out, builtin(Kind.HARMFUL, Split.FIND).limited(limit), options)
    units = top_units(run, share)
    keys = [units.space.keys[place] for place in units.space.blocks_of(units.flat).tolist()]
    kinds = Counter(key.site.units for key in keys)
    print(f"of the top {len(units)}: {dict(kinds)}, such as {units.names[:3]}")
    return kinds


if __name__ == "__main__":
    main(ModelPair.embedded(), Path("runs/attention"))
