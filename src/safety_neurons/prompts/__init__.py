"""What models are given: prompt sets, the built-in prompts, and their rendering as chats."""

from safety_neurons.prompts.builtin import Kind, Split, builtin
from safety_neurons.prompts.chat import ChatFormat, encode_all
from safety_neurons.prompts.overlap import divide_apart, near_duplicates, refuse_overlap
from safety_neurons.prompts.parts import parts_of
from safety_neurons.prompts.places import Places, places_of
from safety_neurons.prompts.reasoning import ReasonedAnswer, reopened, split_reasoning
from safety_neurons.prompts.sets import Prompt, PromptSet, load_prompts, prompts_of, splits_of
from safety_neurons.prompts.text import decode_text

__all__ = [
    "ChatFormat",
    "Kind",
    "Places",
    "Prompt",
    "PromptSet",
    "ReasonedAnswer",
    "Split",
    "builtin",
    "decode_text",
    "divide_apart",
    "encode_all",
    "load_prompts",
    "near_duplicates",
    "parts_of",
    "places_of",
    "prompts_of",
    "refuse_overlap",
    "reopened",
    "split_reasoning",
    "splits_of",
]
