"""Another model's neurons: their effective weights, computed and read in this model instead."""

from __future__ import annotations

import torch

from safety_neurons import ModelPair, Setting, Side, Transplant, UnitSet, decode

ALIGNED, UNALIGNED = Side.ALIGNED, Side.UNALIGNED


def main(pair: ModelPair, prompt: str = "Hello!", *, share: float = 0.3) -> dict[str, list[int]]:
    """Completions of the unaligned model, with some and with all of the aligned one's neurons."""
    space = pair.space()
    donor, recipient = pair.sides[ALIGNED], pair.sides[UNALIGNED]
    drawn = torch.randperm(space.total, generator=torch.Generator().manual_seed(0))
    sets = {
        "some neurons": UnitSet.of(drawn[: round(share * space.total)], space),
        "all neurons": UnitSet.all(space),
    }
    settings = {
        "unaligned": Setting(UNALIGNED),
        **{
            name: Setting(UNALIGNED, (Transplant.between(donor, recipient, units),))
            for name, units in sets.items()
        },
    }
    ids = [pair.tokenizer(prompt)["input_ids"]]
    answers = decode(pair, ids, list(settings.values()), max_new_tokens=10)
    (aligned,) = decode(pair, ids, [Setting(ALIGNED)], max_new_tokens=10)
    found = {name: of for name, (of,) in zip(settings, answers, strict=True)}
    found["aligned"] = aligned[0]
    for name, tokens in found.items():
        print(f"{name}: {pair.tokenizer.decode(tokens)!r}")
    return found


if __name__ == "__main__":
    main(ModelPair.embedded())
