"""Prompts as the tokens that a model reads: its own chat template, one BOS at most.

A template is a program that came with a model. It may refuse a message, drop it or change
it, so that what it gives is compared with what was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from safety_neurons.errors import UserError, reason_of
from safety_neurons.prompts import template
from safety_neurons.prompts.reasoning import left_open
from safety_neurons.prompts.sets import PromptSet

EXAMPLE = "PROMPT"
"""Stands for any prompt, to see what the template writes around it."""


@dataclass(frozen=True)
class ChatFormat:
    """How prompts are rendered, as a run's manifest records it.

    Args:
        system: a system prompt; None leaves it to the template, which may add its own.
        template_args: further arguments of the template, such as `enable_thinking`.
    """

    system: str | None = None
    template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        template.require_text(self.system or "", "The system prompt")
        template.require_arguments(self.template_args)

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ChatFormat:
        """The format of a run, from the options of its `find`; old ones have no arguments."""
        return cls(config.get("system"), config.get("template_args") or {})

    def render(
        self, tokenizer: PreTrainedTokenizerBase, text: str, *, named: str = "the prompt"
    ) -> str:
        """The text that stands before the completion.

        Args:
            named: what errors call the prompt.

        Returns:
            The chat up to where the answer begins; without a template the prompt alone, or an empty
            line behind the system prompt.

        Raises:
            UserError: if the template raises, or gives the prompt or the system prompt in other
                words or not at all.
        """
        if template.template_of(tokenizer) is None:
            return text if self.system is None else f"{self.system}\n\n{text}"
        rendered = self._applied(tokenizer, text, named)
        if text.strip() not in rendered:
            raise UserError(
                f"The chat template does not give the text of {named} as it is written; "
                f"{template.REMEDY}."
            )
        if (self.system or "").strip() not in rendered:
            raise UserError(
                "The chat template does not give the system prompt as it is written; leave "
                "--system out, or write its text into the prompts."
            )
        return rendered

    def _applied(self, tokenizer: PreTrainedTokenizerBase, text: str, named: str) -> str:
        try:
            return template.apply(tokenizer, self.system, text, self.template_args)
        except MemoryError:
            raise
        except Exception as error:  # a template may raise anything
            blame, remedy = self._blamed(tokenizer, text, named)
            raise UserError(
                f"The chat template refuses {blame} ({reason_of(error)}); {remedy}."
            ) from error

    def _blamed(self, tokenizer: PreTrainedTokenizerBase, text: str, named: str) -> tuple[str, str]:
        """What the template refuses, found by leaving one thing out at a time; the remedy."""
        if self.system is not None and template.applies(tokenizer, None, text, self.template_args):
            return "the system prompt", "leave --system out, or write its text into the prompts"
        if self.template_args and template.applies(tokenizer, self.system, text, {}):
            return f"{dict(self.template_args)}", "give other values with --template-arg"
        return named, template.REMEDY

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, text: str, *, named: str = "the prompt"
    ) -> list[int]:
        """Token ids of the rendered prompt; a template writes its own BOS, so none is added.

        Returns:
            At least one id.

        Raises:
            UserError: as `render`, and if there is no token.
        """
        template.require_text(text, f"The text of {named}")
        rendered = self.render(tokenizer, text, named=named)
        ids = tokenizer(rendered, add_special_tokens=not tokenizer.chat_template)["input_ids"]
        if not ids:
            raise UserError(
                f"The tokenizer makes no token of {named} ({text[:40]!r}); write another text."
            )
        return ids

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """For the manifest: the template's hash and arguments, the system prompt, an example.

        Returns:
            What JSON can hold, by name; the hash is None without a template.

        Raises:
            UserError: if the template takes no prompt in this format, or does not read one of
                the arguments.
        """
        template.require_read(tokenizer, self.template_args)
        written = template.template_of(tokenizer)
        return {
            "template_sha256": hashlib.sha256(written.encode()).hexdigest()[:16]
            if written
            else None,
            "system_prompt": self.system,
            "template_args": dict(self.template_args),
            "example": self.render(tokenizer, EXAMPLE, named="a prompt"),
        }

    def opened(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """The opening marker of a reasoning that the prompt ends in, so that completions lack it.

        Only what the template writes behind the user's text counts.

        Returns:
            A marker such as `<think>`, None where the prompt leaves no reasoning open.
        """
        _, _, behind = self.render(tokenizer, EXAMPLE, named="a prompt").rpartition(EXAMPLE)
        return left_open(behind)


def encode_all(
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatFormat,
    *,
    context_length: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Token ids of every prompt; nothing is ever cut.

    Returns:
        One list of ids a prompt, in the order of `prompts`.

    Raises:
        UserError: if a prompt and its completion would not fit into the context, or the
            template does not give a prompt as it is written.
    """
    template.require_read(tokenizer, chat.template_args)
    encoded = [
        chat.encode(tokenizer, prompt.text, named=f"the prompt '{prompt.id}' of '{prompts.name}'")
        for prompt in prompts
    ]
    room = context_length - max_new_tokens
    long = [i for i, ids in enumerate(encoded) if len(ids) > room]
    if long:
        raise UserError(
            f"{len(long)} prompts of '{prompts.name}' are too long for the model's context of "
            f"{context_length} tokens less {max_new_tokens} new ones (id "
            f"'{prompts.prompts[long[0]].id}' has {len(encoded[long[0]])}); shorten or remove them."
        )
    return encoded
