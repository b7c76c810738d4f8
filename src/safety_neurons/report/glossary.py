"""The terms of the page, for a reader who has not met them."""

GLOSSARY = (
    (
        "Neuron",
        "One coordinate of the input of an MLP's down projection, after the activation function "
        "and the gate. L12.N345 is neuron 345 of layer 12; both are counted from 0.",
    ),
    (
        "Aligned and unaligned model",
        "Two models with the same shape; the aligned one refuses harmful requests, the unaligned "
        "one does not (or less).",
    ),
    (
        "Ranking",
        "All neurons in order of a score. “change-score”: how much a neuron's activation differs "
        "between the two models on the same tokens (root mean square). “attribution”: that "
        "difference times the gradient of the likelihood of the aligned model's own answer.",
    ),
    (
        "Share",
        "A part of all neurons. The set at a share is the first k neurons of a ranking, with k "
        "the share times the number of all neurons.",
    ),
    (
        "Patching",
        "While one model writes, the other reads the same tokens, and the chosen neurons of the "
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
        "in the chosen neurons: 0 % changes nothing, 100 % refuses as often as the aligned model. "
        "It may lie outside these bounds.",
    ),
    (
        "Necessity",
        "The other way round: how much of the gap is lost when the aligned model gets the "
        "unaligned model's values in the chosen neurons.",
    ),
    (
        "Ceiling",
        "The effect of patching all neurons. It is 100 % only if the models differ in nothing but "
        "what makes the neurons.",
    ),
    (
        "N90",
        "The smallest tested share with an effect of at least 90 % there and at every larger "
        "tested share; “first reached” is the smallest share with such an effect at all. "
        "Undefined if the ceiling is below 90 %.",
    ),
    (
        "Matched random set",
        "As many neurons in each layer as the set has, drawn at random from outside it. There is "
        "no such set where a layer has too few neurons left.",
    ),
    (
        "Select and test split",
        "Prompts on which the set is chosen, and other prompts on which the claim is tested. The "
        "neurons are ranked on a third set of prompts.",
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
