"""Units switched off: live, on any model in memory, and in the weights."""

from __future__ import annotations

import torch

from safety_neurons import Ablate, LoadedModel, Setting, UnitSet, decode, intervene


def main(model: LoadedModel, prompt: str = "Hello!", *, share: float = 0.05) -> list[list[int]]:
    """A completion as it is, ablated live, and by the model with the exported weights."""
    space = model.space()
    drawn = torch.randperm(space.total, generator=torch.Generator().manual_seed(0))
    ablate = Ablate(UnitSet.of(drawn[: round(share * space.total)], space))
    ids = [model.tokenizer(prompt)["input_ids"]]
    plain, ablated = Setting(), Setting(interventions=(ablate,))
    (as_it_is,), (live,) = decode(model, ids, [plain, ablated], max_new_tokens=10)
    hooked = model.hooked.model
    with intervene(hooked, ablate), torch.no_grad():  # the same on a model that you run yourself
        hooked(input_ids=torch.tensor(ids))
    before = {name: tensor.clone() for name, tensor in hooked.state_dict().items()}
    hooked.load_state_dict(ablate.export(model.hooked), strict=False)
    ((baked,),) = decode(model, ids, [plain], max_new_tokens=10)
    hooked.load_state_dict(before)
    for name, tokens in (("as it is", as_it_is), ("live", live), ("baked", baked)):
        print(f"{name}: {model.tokenizer.decode(tokens)!r}")
    return [as_it_is, live, baked]


if __name__ == "__main__":
    main(LoadedModel.load("embedded:unaligned"))
