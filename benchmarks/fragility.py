"""Fragility: single units with the layers below computed once, and the whole study's minutes.

`python -m benchmarks.fragility` measures a whole study of the embedded aligned model on 64 prompts,
which takes about a quarter of an hour; `make bench` only the single units.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from safety_neurons.engine import ALONE
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts
from safety_neurons.inference.perplexity import surprisals
from safety_neurons.inference.refusal_odds import REFUSAL_TOKENS, changed_log_odds
from safety_neurons.interventions import Ablate
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Silent
from safety_neurons.prompts import Kind, Split, builtin
from safety_neurons.studies.fragility import fragility_of_model
from safety_neurons.units import UnitSet, UnitValues

UNITS, PROMPTS = 12, 16


def measure(repeats: int = 3) -> dict[str, Any]:
    """Seconds of single ablations that share the layers below, and of whole passes for each."""
    model = LoadedModel.load("embedded:aligned")
    prompts = builtin(Kind.HARMFUL, Split.FIND).limited(PROMPTS)
    decoding = Decoding(REFUSAL_TOKENS, PROMPTS)
    encoded = encode_prompts(model, prompts, decoding)
    (answers,) = answer(model, encoded, [Setting()], decoding)
    space = model.space()
    drawn = torch.randperm(space.total, generator=torch.Generator().manual_seed(0))
    units = drawn[:UNITS].tolist()
    means = UnitValues(torch.zeros(space.total), space, "zero")
    held = [Ablate(UnitSet.of(torch.tensor([unit]), space), means) for unit in units]
    settings = {str(unit): Setting(interventions=(h,)) for unit, h in zip(units, held, strict=True)}
    seconds: dict[str, list[float]] = {"shared": [], "whole": []}
    for _ in range(repeats):
        begun = time.perf_counter()
        changed_log_odds(model, ALONE, encoded, answers, held, Silent())
        seconds["shared"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        surprisals(model, encoded, answers, settings, Decoding(REFUSAL_TOKENS, 64))
        seconds["whole"].append(time.perf_counter() - begun)
    best = {name: min(of) for name, of in seconds.items()}
    return {
        "units": UNITS,
        "prompts": PROMPTS,
        "seconds": {name: round(of, 2) for name, of in best.items()},
        "speedup": round(best["whole"] / best["shared"], 2),
    }


def whole(limit: int = 64) -> dict[str, Any]:
    """Minutes of the whole study of one model."""
    model = LoadedModel.load("embedded:aligned")
    begun = time.perf_counter()
    card = fragility_of_model(model, limit=limit)
    return {
        "prompts": card.intact.n,
        "settings": len(card.curve),
        "minutes": round((time.perf_counter() - begun) / 60, 1),
    }


if __name__ == "__main__":
    print(json.dumps(whole()))
