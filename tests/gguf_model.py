"""A tiny Llama in GGUF, as llama.cpp writes it: q and k permuted, vocabulary beside the weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from tests.tiny import BOS, EOS, VOCABULARY

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: PreTrainedModel, file: Path, *, leave_out: str | None = None) -> Path:
    """Write a Llama of `tests.tiny` to `file`, perhaps without one tensor."""
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("llama")
    words = ["<unk>", "<s>", "</s>", *(f"▁w{i}" for i in range(3, VOCABULARY))]
    writer.add_token_list(words)
    writer.add_token_scores([-float(i) for i in range(VOCABULARY)])
    writer.add_token_types([2, 3, 3, *([1] * (VOCABULARY - 3))])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(0)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name != leave_out:
            writer.add_tensor(_name(name), _stored(name, tensor, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    _, _, layer, *part, kind = name.split(".")
    return f"blk.{layer}.{_PARTS['.'.join(part)]}.{kind}"


def _stored(name: str, tensor: Tensor, heads: dict[str, int]) -> np.ndarray:
    for part, count in heads.items():
        if f".{part}." in name:  # rotary halves lie interleaved
            rows, width = tensor.shape
            tensor = tensor.view(count, 2, rows // count // 2, width).transpose(1, 2)
            tensor = tensor.reshape(rows, width)
    return np.ascontiguousarray(tensor.float().numpy())
