"""Tiny random models, adapters and tokenizers, and plain-framework references.

The models are large in weight (std 0.4) so that every part has a visible effect. The
references know nothing of the package: PEFT runs the adapters, plain torch hooks read
and overwrite, one prompt at a time, without padding and without a cache.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from safety_neurons.engine import Side
from safety_neurons.inference import Setting, decode
from safety_neurons.interventions import InterventionEdit, Patch
from safety_neurons.models import ModelPair
from safety_neurons.prompts import Prompt, PromptSet
from safety_neurons.units import UnitSet

GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3")
ARCHITECTURES = (*GATED, "gpt2", "gpt_neox")

VOCABULARY = 80
PAD, BOS, EOS, UNK = 0, 1, 2, 3
LAYERS = 2
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m['role'] }} {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)

_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_MODERN = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
}
_WINDOW = {"sliding_window": 4}
# Gemma's tied embeddings would make a random model repeat its last token for ever.
_GEMMA = {"query_pre_attn_scalar": 4, "initializer_range": 0.6, "tie_word_embeddings": False}
SIZES: dict[str, dict] = {
    "llama": _MODERN,
    "mistral": {**_MODERN, **_WINDOW},
    "qwen2": {k: v for k, v in _MODERN.items() if k != "head_dim"},
    "qwen3": _MODERN,
    "gemma2": {**_MODERN, **_WINDOW, **_GEMMA},
    "gemma3_text": {**_MODERN, **_WINDOW, **_GEMMA},
    "gemma3": {
        "text_config": {**_COMMON, **_MODERN, **_WINDOW, **_GEMMA},
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        "mm_tokens_per_image": 4,
        "image_token_index": VOCABULARY - 1,
        "tie_word_embeddings": False,
        "initializer_range": 0.6,
    },
    "gpt2": {
        "n_embd": 16,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": 128,
        "initializer_range": 0.4,
    },
    "gpt_neox": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.4,
    },
}

_GATED_PARTS = {
    "layer": "model.layers.{}",
    "down": "mlp.down_proj",
    "out": "self_attn.o_proj",
    "into": ("mlp.gate_proj", "mlp.up_proj"),
    "attention": ("q_proj", "v_proj", "o_proj"),
    "kv": ("k_proj", "v_proj"),
    "head": "lm_head",
    "embed": "embed_tokens",
}
PARTS: dict[str, dict] = {
    **dict.fromkeys(GATED, _GATED_PARTS),
    "gemma3": {**_GATED_PARTS, "layer": "model.language_model.layers.{}"},
    "gpt2": {
        "layer": "transformer.h.{}",
        "down": "mlp.c_proj",
        "out": "attn.c_proj",
        "into": ("mlp.c_fc",),
        "attention": ("attn.c_attn", "attn.c_proj"),
        "kv": ("attn.c_attn",),
        "head": "lm_head",
        "embed": "wte",
    },
    "gpt_neox": {
        "layer": "gpt_neox.layers.{}",
        "down": "mlp.dense_4h_to_h",
        "out": "attention.dense",
        "into": ("mlp.dense_h_to_4h",),
        "attention": ("attention.query_key_value", "attention.dense"),
        "kv": ("attention.query_key_value",),
        "head": "lm_head",
        "embed": "embed_in",
    },
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Of seven named words and `w7`, `w8` and so on."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "system", "user", "assistant"]
    words += [f"w{i}" for i in range(len(words), VOCABULARY)]
    return tokenizer_of(words)


def tokenizer_of(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word; adds a BOS of its own, and its chat template writes one, too."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    fast.chat_template = TEMPLATE
    return fast


def random_model(architecture: str, seed: int = 0, **changes) -> PreTrainedModel:
    """A model in float64 whose every parameter is random, norms and biases included."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **{**_COMMON, **SIZES[architecture], **changes})
    model = AutoModelForCausalLM.from_config(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms, biases and the projection of images start at constants.
            if parameter.dim() == 1 or "mm_input_projection" in name:
                parameter += 0.2 * torch.randn_like(parameter)
            assert parameter.abs().sum() > 0, name
    return model.eval().requires_grad_(False)


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def load(
    base: Path | str, adapter: Path | str | None = None, *, dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """A plain transformers model, its adapter run by PEFT itself."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).get_base_model()
    return model.eval().requires_grad_(False)


class Zoo:
    """Everything that tests load, made on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pair = cache(self._pair)
        self.plain = cache(load)

    def _once(self, name: str, make: Callable[[Path], object]) -> Path:
        folder = self.root / name
        if not folder.is_dir():
            make(folder)
        return folder

    def base(self, architecture: str, seed: int = 0, **changes) -> Path:
        label = "".join(f"-{k}={v}" for k, v in changes.items())
        return self._once(
            f"{architecture}-{seed}{label}",
            lambda folder: save(random_model(architecture, seed, **changes), folder),
        )

    def copy(self, architecture: str) -> Path:
        """The same weights in another folder, which the package must load as another model."""
        return self._once(
            f"{architecture}-copy", lambda folder: shutil.copytree(self.base(architecture), folder)
        )

    def other_neurons(self, architecture: str) -> Path:
        """The base with other weights in all that makes its neurons, and nowhere else."""

        def make(folder: Path) -> None:
            model = load(self.base(architecture))
            torch.manual_seed(7)
            for name, parameter in model.named_parameters():
                if any(f".{part}." in name for part in PARTS[architecture]["into"]):
                    parameter += 0.3 * torch.randn_like(parameter)
            save(model, folder)

        return self._once(f"{architecture}-other-neurons", make)

    def adapter(self, architecture: str, kind: str, seed: int = 0) -> Path:
        return self._once(
            f"{architecture}-{kind}-{seed}",
            lambda folder: save_adapter(self.base(architecture), architecture, kind, folder, seed),
        )

    def source(self, architecture: str, kind: str | None, seed: int = 0) -> str:
        """`BASE` or `BASE+ADAPTER`, on the base of that architecture."""
        base = self.base(architecture)
        return str(base) if kind is None else f"{base}+{self.adapter(architecture, kind, seed)}"

    @staticmethod
    def _pair(aligned: str, unaligned: str) -> ModelPair:
        return ModelPair.load(aligned, unaligned, dtype=torch.float64, device="cpu")

    def model(self, source: str) -> PreTrainedModel:
        """The plain reference of one side, kept for the session."""
        base, _, adapter = source.partition("+")
        return self.plain(Path(base), Path(adapter) if adapter else None)


def adapter_config(architecture: str, kind: str) -> LoraConfig | IA3Config:
    parts = PARTS[architecture]
    down, everything = parts["down"], [*parts["attention"], *parts["into"], parts["down"]]
    rank = {"r": 3, "lora_alpha": 6}
    configs: dict[str, Callable[[], LoraConfig | IA3Config]] = {
        "ia3": lambda: IA3Config(target_modules=[down], feedforward_modules=[down]),
        "ia3-kv": lambda: IA3Config(
            target_modules=[*parts["kv"], down], feedforward_modules=[down]
        ),
        "ia3-near-one": lambda: IA3Config(target_modules=[down], feedforward_modules=[down]),
        "ia3-head": lambda: IA3Config(
            target_modules=[down], feedforward_modules=[down], modules_to_save=[parts["head"]]
        ),
        "ia3-lm-head": lambda: IA3Config(
            target_modules=[down, parts["head"]], feedforward_modules=[down]
        ),
        "ia3-into-lm-head": lambda: IA3Config(
            target_modules=[down, parts["head"]], feedforward_modules=[down, parts["head"]]
        ),
        "lora": lambda: LoraConfig(**rank, target_modules=everything, lora_dropout=0.5),
        "lora-lm-head": lambda: LoraConfig(**rank, target_modules=[parts["head"]]),
        "lora-embed": lambda: LoraConfig(**rank, target_modules=[parts["embed"]]),
        "lora-embed-lm-head": lambda: LoraConfig(
            **rank, target_modules=[*everything, parts["embed"], parts["head"]]
        ),
        "lora-rs": lambda: LoraConfig(**rank, target_modules=everything, use_rslora=True),
        "lora-head": lambda: LoraConfig(
            **rank, target_modules=everything, modules_to_save=[parts["head"]]
        ),
        "lora-bias": lambda: LoraConfig(**rank, target_modules=everything, bias="lora_only"),
        "dora": lambda: LoraConfig(**rank, target_modules=everything, use_dora=True),
        "pissa": lambda: LoraConfig(**rank, target_modules=everything, init_lora_weights="pissa"),
        "olora": lambda: LoraConfig(**rank, target_modules=everything, init_lora_weights="olora"),
    }
    return configs[kind]()


def save_adapter(base: Path, architecture: str, kind: str, folder: Path, seed: int) -> None:
    """A random adapter of that kind, far from the identity, saved with PEFT."""
    # PEFT takes these two apart in single precision only.
    dtype = torch.float32 if kind in ("pissa", "olora") else torch.float64
    model = get_peft_model(load(base, dtype=dtype), adapter_config(architecture, kind))
    torch.manual_seed(100 + seed)
    spread = 1e-3 if kind == "ia3-near-one" else 0.8
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.copy_(1 + spread * torch.randn_like(parameter))
            elif "lora_magnitude" in name:
                parameter *= 1 + 0.3 * torch.rand_like(parameter)
            elif "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
            elif "modules_to_save" in name or (kind == "lora-bias" and name.endswith("bias")):
                parameter += 0.3 * torch.randn_like(parameter)
    # By default PEFT writes the base's embeddings, too, where an adapter is on them.
    model.save_pretrained(folder, save_embedding_layers=False)


def prompts(lengths: Sequence[int] = (7, 2, 10), seed: int = 0) -> list[list[int]]:
    """Random ordinary tokens, each prompt after a BOS; the lengths differ by default."""
    draw = random.Random(seed)
    return [[BOS, *(draw.randrange(7, VOCABULARY) for _ in range(n - 1))] for n in lengths]


# References: one prompt at a time, no padding, no cache, plain hooks.


def down_projections(
    model: PreTrainedModel, architecture: str, part: str = "down"
) -> list[torch.nn.Module]:
    """The module whose input is each layer's neurons, or (`out`) its attention channels.

    That is the inside of PEFT's (IA)³ wrapper, which scales its input, and the outside of
    its LoRA wrapper, whose two branches read the same input.
    """
    parts = PARTS[architecture]
    names = [f"{parts['layer'].format(i)}.{parts[part]}" for i in range(LAYERS)]
    modules = [model.get_submodule(name) for name in names]
    return [module.base_layer if hasattr(module, "ia3_l") else module for module in modules]


@contextlib.contextmanager
def pre_hooks(
    modules: Sequence[torch.nn.Module], edit: Callable[[int, Tensor], Tensor | None]
) -> Iterator[None]:
    """`edit(layer, input)` before each module."""
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, layer=layer: None if (x := edit(layer, args[0])) is None else (x,)
        )
        for layer, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits_of(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """`pos vocab`, of one sequence."""
    return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]


def neurons_of(
    model: PreTrainedModel, architecture: str, tokens: Sequence[int], part: str = "down"
) -> list[Tensor]:
    """`pos neuron` of each layer, of one sequence."""
    taken: dict[int, Tensor] = {}
    with pre_hooks(down_projections(model, architecture, part), taken.__setitem__), torch.no_grad():
        logits_of(model, tokens)
    return [taken[layer][0] for layer in range(LAYERS)]


def overwritten_logits(
    recipient: PreTrainedModel,
    architecture: str,
    tokens: Sequence[int],
    columns: Mapping[int, Sequence[int]],
    values: Sequence[Tensor],
    part: str = "down",
) -> Tensor:
    """`pos vocab` of the recipient with chosen neurons of each layer set to `values`."""

    def edit(layer: int, x: Tensor) -> Tensor | None:
        if not columns.get(layer):
            return None
        x = x.clone()
        for column in columns[layer]:
            x[0, :, column] = values[layer][:, column]
        return x

    with pre_hooks(down_projections(recipient, architecture, part), edit), torch.no_grad():
        return logits_of(recipient, tokens)


def patched_generation(
    donor: PreTrainedModel,
    recipient: PreTrainedModel,
    architecture: str,
    prompt: Sequence[int],
    columns: Mapping[int, Sequence[int]],
    steps: int,
    part: str = "down",
) -> tuple[list[int], Tensor]:
    """Greedy tokens up to the first EOS and the logits (`step vocab`) that chose them."""
    tokens, rows = list(prompt), []
    while len(rows) < steps and (not rows or tokens[-1] != EOS):
        values = neurons_of(donor, architecture, tokens, part)
        logits = overwritten_logits(recipient, architecture, tokens, columns, values, part)
        rows.append(logits[-1])
        tokens.append(int(rows[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(rows)


# Interventions, as most tests use them.


def patched(recipient: Side, neurons: UnitSet | None = None, strength: float = 1.0) -> Setting:
    """One side answers, patched at `neurons`, or as it is."""
    return Setting(recipient, () if neurons is None else (Patch(neurons, strength),))


def decode_patched(pair, asked, recipient, patches=(None,), *, strengths=None, max_new_tokens):
    """`decode` under each of several patches; None is none."""
    moved = strengths or [1.0] * len(patches)
    settings = [patched(recipient, p, s) for p, s in zip(patches, moved, strict=True)]
    return decode(pair, asked, settings, max_new_tokens=max_new_tokens)


def patch_edit(neurons: UnitSet, donor: Side) -> InterventionEdit:
    """The edit that copies the donor's values of some neurons to the other side."""
    return InterventionEdit([Patch(neurons)], donor.other)


def words(name: str, seed: int) -> PromptSet:
    """Twelve prompts of seven words that the tiny tokenizers know, others for each seed."""
    rng = random.Random(seed)
    texts = [" ".join(f"w{rng.randrange(10, 76)}" for _ in range(7)) for _ in range(12)]
    return PromptSet(name, tuple(Prompt(f"{name}/{i}", text) for i, text in enumerate(texts)))
