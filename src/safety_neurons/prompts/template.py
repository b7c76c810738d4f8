"""A tokenizer's chat template: which one counts, what it reads, and which arguments it takes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from safety_neurons.errors import UserError, reading, reason_of

REMEDY = "mend it, or take the other model's with --template-from"

RESERVED = frozenset(
    {
        *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters,
        *PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES,
        *("messages", "raise_exception", "strftime_now", "namespace", "dict"),
    }
)
"""Names that the chat or transformers itself gives to a template."""


class _Generation(Extension):
    """Lets `{% generation %}` pass, which only training reads."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that chats are rendered with.

    Returns:
        Its Jinja source, None without one.

    Raises:
        UserError: if there are several and none is the default.
    """
    if not tokenizer.chat_template:
        return None
    with _understood(tokenizer):
        return tokenizer.get_chat_template()


def _understood(tokenizer: PreTrainedTokenizerBase) -> AbstractContextManager[None]:
    return reading(
        tokenizer.name_or_path or "The tokenizer",
        fault="has a chat template that cannot be read",
        remedy=REMEDY,
    )


def variables_of(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The names that the template takes from outside, except those that are always given.

    Returns:
        Names that arguments may have; empty without a template.

    Raises:
        UserError: if it is not written as a template.
    """
    template = template_of(tokenizer) or ""
    environment = ImmutableSandboxedEnvironment(extensions=[_Generation, "jinja2.ext.loopcontrols"])
    with _understood(tokenizer):
        return meta.find_undeclared_variables(environment.parse(template)) - RESERVED


def require_arguments(arguments: Mapping[str, Any]) -> None:
    """Demand arguments that may be given to a template and kept in a manifest.

    Raises:
        UserError: naming the first that is neither.
    """
    if not isinstance(arguments, Mapping):
        raise UserError(f"Template arguments are names with values, but {arguments!r} was given.")
    for name, value in arguments.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise UserError(f"'{name}' is no name of a template argument; write NAME=VALUE.")
        if name in RESERVED:
            raise UserError(f"The template argument '{name}' is given by the chat; leave it out.")
        if not _is_plain(value):
            raise UserError(
                f"The template argument '{name}' has the value {value!r}, which JSON cannot keep; "
                "give true or false, a number, a text, a list or an object of these."
            )


def require_read(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
    """Demand that the chat template reads each argument: any other would do nothing.

    Raises:
        UserError: naming those that it does not read.
    """
    if not arguments:
        return
    if template_of(tokenizer) is None:
        raise UserError("The tokenizer has no chat template; leave out --template-arg.")
    known = variables_of(tokenizer)
    unread = [name for name in arguments if name not in known]
    if unread:
        raise UserError(
            f"The chat template does not read {', '.join(unread)} (it reads "
            f"{', '.join(sorted(known)) or 'no arguments'}); mend or leave out --template-arg."
        )


def apply(
    tokenizer: PreTrainedTokenizerBase,
    system: str | None,
    text: str,
    arguments: Mapping[str, Any],
) -> str:
    """The chat of a system prompt, perhaps, and one prompt, up to where the answer begins.

    Returns:
        The text as the template writes it.

    Raises:
        Exception: whatever the template raises.
    """
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **arguments
    )
    return str(rendered)


def applies(
    tokenizer: PreTrainedTokenizerBase,
    system: str | None,
    text: str,
    arguments: Mapping[str, Any],
) -> bool:
    """Whether the template raises nothing."""
    try:
        apply(tokenizer, system, text, arguments)
    except Exception:
        return False
    return True


def require_text(text: str, what: str) -> None:
    """Raise UserError for half of a surrogate pair, which no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} is not Unicode text ({reason_of(error)}); write it in UTF-8."
        ) from error


def _is_plain(value: Any) -> bool:
    """Whether JSON gives `value` back as it was."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        return bool(json.loads(text) == value)
    except (TypeError, ValueError, RecursionError):
        return False
