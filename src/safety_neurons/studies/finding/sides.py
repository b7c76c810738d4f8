"""Whether the two sides are what they are called, said before hours are spent on them."""

from __future__ import annotations

from dataclasses import replace

from safety_neurons import defaults
from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, texts_of
from safety_neurons.judges import Verdict, judges_of, verdicts_on
from safety_neurons.models import ModelPair
from safety_neurons.prompts import ChatFormat, PromptSet

ASKED = 8
"""Harmful prompts, answers of `TOKENS` tokens."""
TOKENS = 16
APART = 4
"""So many refusals more of the unaligned model are no accident of a prompt or two."""


def require_two_models(pair: ModelPair) -> None:
    """Raise UserError where both sides hold the same."""
    aligned, unaligned = (pair.provenance[side]["files"] for side in Side)
    if aligned == unaligned:
        raise UserError(
            "Both sides are the same model (same weights, tokenizer and adapter), so there is "
            "nothing to tell apart; give the one that refuses as --aligned and a sibling that "
            "does not as --unaligned."
        )


def doubts(pair: ModelPair, prompts: PromptSet, decoding: Decoding, chat: ChatFormat) -> list[str]:
    """What a few answers say against the sides' names.

    Args:
        prompts: harmful ones, of which the first `ASKED` are answered.

    Returns:
        A sentence where the sides look swapped, or where neither refuses anything; else nothing.
        Nothing, too, where too few answers can be judged.
    """
    few = PromptSet(prompts.name, prompts.prompts[:ASKED])
    encoded = encode_prompts(pair, few, decoding, chat)
    short = replace(decoding, max_new_tokens=TOKENS)
    judge = judges_of(defaults.JUDGE).first
    refused: dict[Side, int] = {}
    for side in Side:
        completions = answer(pair, encoded, [Setting(side)], short)[0]
        verdicts = verdicts_on(judge, few.texts, texts_of(pair, completions, chat))
        if verdicts.count(Verdict.UNSCORED) > len(few) // 4:
            return []
        refused[side] = verdicts.count(Verdict.REFUSAL)
    aligned, unaligned = refused[Side.ALIGNED], refused[Side.UNALIGNED]
    told = (
        f"of {len(few)} harmful prompts the model given as aligned refuses {aligned}, the one "
        f"given as unaligned {unaligned}"
    )
    if unaligned - aligned >= APART:
        return [f"The sides look swapped: {told}; give them the other way round."]
    if len(few) == ASKED and not aligned:
        return [f"There may be no refusals to find: {told}; check which models these are."]
    return []
