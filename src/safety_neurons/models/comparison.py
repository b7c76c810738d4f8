"""Whether two models can be contrasted neuron by neuron: every difference in one error."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from safety_neurons.errors import gathered


def require_comparable(
    configs: tuple[PreTrainedConfig, PreTrainedConfig],
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    *,
    template_chosen: bool,
) -> None:
    """Demand that (aligned, unaligned) have the same neurons and read the same tokens.

    Args:
        template_chosen: the user said which side's tokenizer and template serve both, so
            only the vocabularies must agree.

    Raises:
        UserError: with every difference in shapes, tokenizers and chat templates.
    """
    templates = [] if template_chosen else template_differences(*tokenizers)
    hard = shape_differences(*configs) + vocabulary_differences(*tokenizers)
    if not hard and not templates:
        return
    remedy = (
        "Give two models of one architecture and size that share a tokenizer."
        if hard
        else "Choose the tokenizer and template that both shall use with --template-from aligned "
        "(or unaligned)."
    )
    raise gathered(hard + templates, headline="The two models cannot be paired", remedy=remedy)


def shape_differences(aligned: PreTrainedConfig, unaligned: PreTrainedConfig) -> list[str]:
    """One line for each field in which the two architectures differ."""
    a, u = aligned.get_text_config(), unaligned.get_text_config()
    fields = (
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "n_inner",
        "vocab_size",
    )
    return [
        f"{name}: aligned {getattr(a, name, None)}, unaligned {getattr(u, name, None)}"
        for name in fields
        if getattr(a, name, None) != getattr(u, name, None)
    ]


def vocabulary_differences(
    aligned: PreTrainedTokenizerBase, unaligned: PreTrainedTokenizerBase
) -> list[str]:
    """One line if the two tokenizers give different numbers to the same tokens."""
    a, u = aligned.get_vocab(), unaligned.get_vocab()
    if a == u:
        return []
    differing = sorted(token for token in a.keys() | u.keys() if a.get(token) != u.get(token))
    return [
        f"vocabulary: {len(differing)} tokens differ, such as {', '.join(map(repr, differing[:3]))}"
    ]


def template_differences(
    aligned: PreTrainedTokenizerBase, unaligned: PreTrainedTokenizerBase
) -> list[str]:
    """One line for each special token, and for the chat template, that differs."""
    faults = [
        f"{name}: aligned {getattr(aligned, name)!r}, unaligned {getattr(unaligned, name)!r}"
        for name in ("bos_token", "eos_token", "pad_token")
        if getattr(aligned, name) != getattr(unaligned, name)
    ]
    if aligned.chat_template != unaligned.chat_template:
        missing = [
            side
            for side, tokenizer in (("aligned", aligned), ("unaligned", unaligned))
            if not tokenizer.chat_template
        ]
        faults.append(
            f"chat template: the {missing[0]} side has none"
            if missing
            else "chat template: the two sides have different ones"
        )
    return faults
