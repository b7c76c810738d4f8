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
            only tokens that both have must agree.

    Raises:
        UserError: with every difference in shapes, tokenizers and chat templates.
    """  # noqa: DOC501
    templates = [] if template_chosen else template_differences(*tokenizers)
    hard = shape_differences(*configs) + vocabulary_conflicts(*tokenizers)
    if not hard and not templates:
        return
    remedy = (
        "Give two models of one architecture and size that share a tokenizer."
        if hard
        else "Choose the tokenizer and template that both shall use with --template-from aligned "
        "(or unaligned)."
    )
    raise gathered(hard + templates, headline="The two models cannot be paired", remedy=remedy)


SIDES = ("aligned", "unaligned")
"""What the two models are called, where a study has no other words."""


def shape_differences(
    aligned: PreTrainedConfig,
    unaligned: PreTrainedConfig,
    called: tuple[str, str] = SIDES,
) -> list[str]:
    """One line for each field in which the two architectures differ.

    Not the number of rows for tokens: they may be padded on one side.

    Returns:
        Lines such as `hidden_size: aligned 576, unaligned 960`.
    """
    a, u = aligned.get_text_config(), unaligned.get_text_config()
    fields = (
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "n_inner",
    )
    return [
        f"{name}: {called[0]} {getattr(a, name, None)}, {called[1]} {getattr(u, name, None)}"
        for name in fields
        if getattr(a, name, None) != getattr(u, name, None)
    ]


def vocabulary_conflicts(
    aligned: PreTrainedTokenizerBase, unaligned: PreTrainedTokenizerBase
) -> list[str]:
    """One line if a token has two numbers, or a number two tokens."""
    a, u = aligned.get_vocab(), unaligned.get_vocab()
    at_a, at_u = ({number: token for token, number in v.items()} for v in (a, u))
    differing = sorted(
        {token for token in a.keys() & u.keys() if a[token] != u[token]}
        | {at_a[number] for number in at_a.keys() & at_u.keys() if at_a[number] != at_u[number]}
    )
    if not differing:
        return []
    return [
        f"vocabulary: {len(differing)} tokens differ, such as {', '.join(map(repr, differing[:3]))}"
    ]


def _added_tokens(
    aligned: PreTrainedTokenizerBase,
    unaligned: PreTrainedTokenizerBase,
    called: tuple[str, str],
) -> list[str]:
    """One line for each side that has tokens which the other lacks."""
    a, u = aligned.get_vocab(), unaligned.get_vocab()
    return [
        f"vocabulary: {len(own - others)} tokens of the {side} side alone, such as "
        f"{', '.join(map(repr, sorted(own - others)[:3]))}"
        for side, own, others in ((called[0], {*a}, {*u}), (called[1], {*u}, {*a}))
        if own - others
    ]


def template_differences(
    aligned: PreTrainedTokenizerBase,
    unaligned: PreTrainedTokenizerBase,
    called: tuple[str, str] = SIDES,
) -> list[str]:
    """One line for each difference that a choice of one side's tokenizer settles.

    Not the padding token: what it is makes no difference, as padding is masked.

    Returns:
        Lines such as `eos_token: aligned '</s>', unaligned '<eos>'`.
    """
    faults = _added_tokens(aligned, unaligned, called) + [
        f"{name}: {called[0]} {getattr(aligned, name)!r}, {called[1]} {getattr(unaligned, name)!r}"
        for name in ("bos_token", "eos_token")
        if getattr(aligned, name) != getattr(unaligned, name)
    ]
    if aligned.chat_template != unaligned.chat_template:
        missing = [
            side
            for side, tokenizer in zip(called, (aligned, unaligned), strict=True)
            if not tokenizer.chat_template
        ]
        faults.append(
            f"chat template: the {missing[0]} side has none"
            if missing
            else "chat template: the two sides have different ones"
        )
    return faults
