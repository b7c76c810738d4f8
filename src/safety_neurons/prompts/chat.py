"""Prompts as the tokens that a model reads: its own chat template, one BOS at most."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from safety_neurons.errors import UserError
from safety_neurons.prompts.sets import PromptSet


@dataclass(frozen=True)
class ChatFormat:
    """How prompts are rendered, as a run's manifest records it.

    Args:
        system: a system prompt; None leaves it to the template, which may add its own.
    """

    system: str | None = None

    def render(self, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
        """The text that stands before the completion."""
        if not tokenizer.chat_template:
            return text if self.system is None else f"{self.system}\n\n{text}"
        messages = [{"role": "user", "content": text}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return str(rendered)

    def encode(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Token ids of the rendered prompt; a template writes its own BOS, so none is added."""
        rendered = self.render(tokenizer, text)
        return tokenizer(rendered, add_special_tokens=not tokenizer.chat_template)["input_ids"]

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
        """For the manifest: the template's hash, the system prompt, an example."""
        template = tokenizer.chat_template
        return {
            "template_sha256": hashlib.sha256(template.encode()).hexdigest()[:16]
            if template
            else None,
            "system_prompt": self.system,
            "example": self.render(tokenizer, "PROMPT"),
        }


def encode_all(
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatFormat,
    *,
    context_length: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Token ids of every prompt; nothing is ever cut.

    Raises:
        UserError: if a prompt and its completion would not fit into the context.
    """
    encoded = [chat.encode(tokenizer, text) for text in prompts.texts]
    room = context_length - max_new_tokens
    long = [i for i, ids in enumerate(encoded) if len(ids) > room]
    if long:
        raise UserError(
            f"{len(long)} prompts of '{prompts.name}' are too long for the model's context of "
            f"{context_length} tokens less {max_new_tokens} new ones (id "
            f"'{prompts.prompts[long[0]].id}' has {len(encoded[long[0]])}); shorten or remove them."
        )
    return encoded


def decode_text(tokenizer: PreTrainedTokenizerBase, completion: Sequence[int]) -> str:
    """A completion as text, without special tokens."""
    return str(tokenizer.decode(list(completion), skip_special_tokens=True)).strip()
