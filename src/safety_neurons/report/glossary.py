"""The terms of the page, for a reader who has not met them."""

_NEURON = (
    "Neuron",
    "One coordinate of the input of an MLP's down projection, after the activation function "
    "and the gate. L12.N345 is neuron 345 of layer 12; both are counted from 0.",
)
_OTHERS = [
    ("Unit", "What is ranked and patched: here a neuron or an attention channel."),
    _NEURON,
    (
        "Attention channel",
        "One coordinate of the input of the attention's output projection: of all heads' outputs, "
        "side by side. L12.A67 is channel 67 of layer 12; both are counted from 0.",
    ),
]
_TERMS = (
    (
        "Aligned and unaligned model",
        "Two models with the same shape; the aligned one refuses harmful requests, the unaligned "
        "one does not (or less).",
    ),
    (
        "Ranking",
        "All {noun} in order of a score. “change-score”: how much a {unit}'s activation differs "
        "between the two models on the same tokens (root mean square). “attribution”: that "
        "difference times the gradient of the likelihood of the aligned model's own answer. "
        "“path-attribution”: the same with gradients along the way from one model to the other, "
        "less what a {unit} does against the answers to harmless prompts.",
    ),
    (
        "Share",
        "A part of all {noun}. The set at a share is the first k {noun} of a ranking, with k "
        "the share times the number of all {noun}.",
    ),
    (
        "Patching",
        "While one model writes, the other reads the same tokens, and the chosen {noun} of the "
        "first are overwritten with the values of the second at every step.",
    ),
    (
        "Refusal rate",
        "Refusals ÷ all answers. Answers without a verdict (“unscored”: empty, unreadable, or "
        "cut inside their reasoning) "
        "count as no refusal.",
    ),
    (
        "Gap in refusals",
        "The aligned model's refusals less the unaligned model's, on the same prompts. Below 20 % "
        "no effect is computed.",
    ),
    (
        "Effect, sufficiency",
        "How much of the gap is closed when the unaligned model gets the aligned model's values "
        "in the chosen {noun}: 0 % changes nothing, 100 % refuses as often as the aligned model. "
        "It may lie outside these bounds.",
    ),
    (
        "Necessity",
        "The other way round: how much of the gap is lost when the aligned model gets the "
        "unaligned model's values in the chosen {noun}.",
    ),
    (
        "Ceiling",
        "The effect of patching all {noun}. It is 100 % only if the models differ in nothing but "
        "what makes the {noun}.",
    ),
    (
        "N90",
        "The smallest tested share with an effect of at least 90 % there and at every larger "
        "tested share; “first reached” is the smallest share with such an effect at all. "
        "Undefined if the ceiling is below 90 %.",
    ),
    (
        "Matched random set",
        "As many {noun} in each {place} as the set has, drawn at random from outside it. There is "
        "no such set where a {place} has too few {noun} left.",
    ),
    (
        "Select and test split",
        "Prompts on which the set is chosen, and other prompts on which the claim is tested. The "
        "{noun} are ranked on a third set of prompts.",
    ),
    (
        "95 % interval",
        "For rates Wilson's interval; for effects the bootstrap over prompts, which resamples the "
        "answers of all models to a prompt together. Fewer than 8 prompts give none.",
    ),
    (
        "Perplexity",
        "How surprised a model is by given answers, here the unaligned model's own to the harmless "
        "prompts; lower is less surprised. A patch that damages the model raises it.",
    ),
)
"""With what the units are called left open."""


def glossary(noun: str) -> list[tuple[str, str]]:
    """Terms and what they mean, in the order of the page."""
    if noun == "neurons":
        first, unit, place = [_NEURON], "neuron", "layer"
    else:
        first, unit, place = _OTHERS, "unit", "site"
    said = {"noun": noun, "unit": unit, "place": place}
    return [*first, *((term, meaning.format(**said)) for term, meaning in _TERMS)]
