"""An amplified checkpoint: the same tokens as the live scaling, and the model as it was again."""

from __future__ import annotations

import sys
from pathlib import Path

from safety_neurons import (
    Decoding,
    Kind,
    LoadedModel,
    RunFolder,
    Scale,
    Setting,
    Side,
    Split,
    answer,
    apply_scale,
    builtin,
    top_units,
    undo,
)
from safety_neurons.inference import encode_prompts
from safety_neurons.prompts import ChatFormat
from safety_neurons.runs.models import source_of


def main(
    run: RunFolder, out: Path, *, scale: float = 1.3, share: float = 0.005, limit: int = 64
) -> dict[str, int | bool]:
    """Compare what is written with the live model on `limit` prompts, token by token."""
    stronger = apply_scale(run, out / "stronger", scale, share).folder
    merged = apply_scale(run, out / "merged", 1.0, share).folder
    live, written = LoadedModel.load(source_of(run, Side.ALIGNED)), LoadedModel.load(str(stronger))
    decoding = Decoding()
    prompts = builtin(Kind.HARMFUL, Split.TEST).limited(limit)
    encoded = encode_prompts(live, prompts, decoding, ChatFormat.of_config(run.config("find")))
    scaled = Setting(interventions=(Scale(top_units(run, share), scale),))
    as_it_is, amplified = answer(live, encoded, [Setting(), scaled], decoding)
    (baked,) = answer(written, encoded, [Setting()], decoding)
    back = undo(stronger, out / "back")
    found = {
        "prompts": len(prompts),
        "same tokens as live": sum(a == b for a, b in zip(amplified, baked, strict=True)),
        "other tokens than unscaled": sum(a != b for a, b in zip(as_it_is, baked, strict=True)),
        "undone to the byte": all(
            file.read_bytes() == (back / file.name).read_bytes()
            for file in merged.glob("*.safetensors")
            if file.name != "undo.safetensors"
        ),
    }
    print(found)
    return found


if __name__ == "__main__":
    made, there = sys.argv[1:] or ("runs/example", "runs/amplified")  # by find_and_validate.py
    main(RunFolder.open(Path(made)), Path(there))
