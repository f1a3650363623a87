"""llama.cpp's names of a checkpoint's tensors, in its model files and importance matrices.

Source: gguf-py/gguf/tensor_mapping.py in llama.cpp. Phi-3's fused matrices have names of their own (attn_qkv), except
that gate and up together are called ffn_up.
"""

from __future__ import annotations

_LAYER_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a stored tensor: `model.layers.3.mlp.down_proj.weight` is `blk.3.ffn_down.weight`."""
    stem = name.removesuffix(".weight")
    if stem in _TOP:
        return f"{_TOP[stem]}.weight"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_LAYER_PARTS[part]}.weight"
