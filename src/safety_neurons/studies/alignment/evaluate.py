"""How well an adapter aligns: refusal rates on prompts that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safety_neurons.engine import Side
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, texts_of
from safety_neurons.judges import RefusalJudge, Verdict, verdicts_on
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, Kind, Split, builtin
from safety_neurons.statistics import rate
from safety_neurons.storage import write_json


def evaluate(
    pair: ModelPair, adapter: Path, *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """Refusal rates of both sides on the split `select`, written to `adapter/evaluation.json`."""
    judge, chat = RefusalJudge(), ChatFormat()
    decoding = Decoding()
    rates = {}
    for kind in Kind:
        prompts = builtin(kind, Split.SELECT).limited(limit)
        encoded = encode_prompts(pair, prompts, decoding, chat)
        for side in Side:
            label = f"{side}, {kind}"
            (answers,) = answer(
                pair, encoded, [Setting(side)], decoding, progress=progress, label=label
            )
            responses = texts_of(pair, answers, chat)
            verdicts = verdicts_on(judge, prompts.texts, responses)
            measured = rate(
                verdicts.count(Verdict.REFUSAL), len(verdicts), verdicts.count(Verdict.UNSCORED)
            )
            rates[label] = {
                "value": measured.value,
                "n": measured.n,
                "unscored": measured.unscored,
            }
    write_json(adapter / "evaluation.json", {"judge": judge.name, "refusal_rates": rates})
    return rates
