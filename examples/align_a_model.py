"""An aligned sibling by preference training, and the pair of the two."""

from __future__ import annotations

from pathlib import Path

from safety_neurons import AlignRecipe, LoadedModel, ModelPair, align

STEPS = 20  # enough to see it learn; the shipped adapter took 240


def main(base: str, out: Path, recipe: AlignRecipe, *, limit: int = 8) -> ModelPair:
    """Train an (IA)³ adapter on the built-in training prompts, at most `limit` of each kind."""
    align(LoadedModel.load(base), out, recipe, limit=limit)
    pair = ModelPair.load(aligned=f"{base}+{out}", unaligned=base)
    print(f"{out}: one model in memory for both sides: {pair.shared}")
    return pair


if __name__ == "__main__":
    main("embedded:unaligned", Path("runs/adapter"), AlignRecipe(steps=STEPS, answer_tokens=20))
