"""Generate: answers under interventions, such as a run's first units patched."""

from __future__ import annotations

from dataclasses import dataclass

from safety_neurons.engine import ModelGroup
from safety_neurons.inference import (
    Decoding,
    Setting,
    answer,
    encode_prompts,
    kept_key,
    texts_of,
)
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, PromptSet
from safety_neurons.runs import RunFolder


@dataclass(frozen=True)
class Response:
    """One answer."""

    id: str
    prompt: str
    response: str


def generate(
    group: ModelGroup,
    prompts: PromptSet,
    setting: Setting,
    decoding: Decoding | None = None,
    *,
    chat: ChatFormat | None = None,
    run: RunFolder | None = None,
    progress: Progress | None = None,
) -> list[Response]:
    """Answer `prompts` under a setting.

    Args:
        chat: how prompts are rendered; by default as in `run`, where there is one.
        run: keeps finished batches, so that a stopped call goes on where it was.

    Returns:
        An answer to each prompt, in order.

    Raises:
        UserError: if a prompt cannot be given to the models, or the setting does not fit them.
    """
    decoding = decoding or Decoding()
    if chat is None:
        chat = ChatFormat() if run is None else ChatFormat.of_config(run.config("find"))
    encoded = encode_prompts(group, prompts, decoding, chat)
    kept = None
    if run is not None:
        kept = [run.state(f"answers/{kept_key(group, encoded, setting, decoding)}.jsonl")]
    (completions,) = answer(
        group, encoded, [setting], decoding, logs=kept, progress=progress, label="Answers"
    )
    texts = texts_of(group, completions, chat)
    return [Response(p.id, p.text, text) for p, text in zip(prompts, texts, strict=True)]
