"""How well an adapter aligns: refusal rates on prompts that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safety_neurons.artifacts import write_json
from safety_neurons.generation import Decoding, answer
from safety_neurons.judges import RefusalJudge, Verdict
from safety_neurons.models import ModelPair, Side
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, Kind, Split, builtin, decode_text, encode_all
from safety_neurons.statistics import rate


def evaluate(
    pair: ModelPair, adapter: Path, *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """Refusal rates of both sides on the split `select`, written to `adapter/evaluation.json`."""
    judge = RefusalJudge()
    decoding = Decoding()
    rates = {}
    for kind in Kind:
        prompts = builtin(kind, Split.SELECT).limited(limit)
        encoded = encode_all(
            prompts,
            pair.tokenizer,
            ChatFormat(),
            context_length=pair.context_length,
            max_new_tokens=decoding.max_new_tokens,
        )
        for side in Side:
            label = f"{side}, {kind}"
            answers = answer(
                pair, encoded, side, decoding, progress=progress or Silent(), label=label
            )
            responses = [decode_text(pair.tokenizer, tokens) for tokens in answers]
            verdicts = judge(prompts.texts, responses)
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
