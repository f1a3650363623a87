"""Where a checkpoint keeps each tensor: each family's own tensor names and row orders, by canonical name.

    canonical               phi3       llama                     phi3small
    self_attn.qkv_proj      as it is   q_proj, k_proj, v_proj    self_attn.query_key_value, rows by key head:
                                                                 its queries, its key, its value
    self_attn.o_proj        as it is   as it is                  self_attn.dense
    mlp.gate_up_proj        as it is   gate_proj, up_proj        mlp.up_proj, rows in turn: gate, up, gate, up …
    model.norm              as it is   as it is                  model.final_layernorm

All other tensors have the same name in all families. Sources: transformers' modeling_phi3.py and modeling_llama.py, and
the modeling file in Phi-3-small's repositories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from targets.architecture import Architecture

# How stored rows become canonical rows: unchanged; from [K, g q + k + v] to [q | k | v]; from alternating to halves.
RowOrder = Literal["as stored", "by key head", "in turn"]
_LLAMA_PARTS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
_SMALL_NAMES: dict[str, tuple[str, RowOrder]] = {
    "self_attn.qkv_proj": ("self_attn.query_key_value", "by key head"),
    "self_attn.o_proj": ("self_attn.dense", "as stored"),
    "mlp.gate_up_proj": ("mlp.up_proj", "in turn"),
    "model.norm": ("model.final_layernorm", "as stored"),
}


@dataclass(frozen=True)
class Sources:
    """The stored tensors that a canonical tensor is assembled from, with their shapes, from top to bottom."""

    parts: tuple[tuple[str, tuple[int, ...]], ...]
    order: RowOrder = "as stored"


def sources_of(architecture: Architecture, name: str, shape: tuple[int, ...]) -> Sources:
    """Return the stored tensors that a canonical tensor of this name and shape is assembled from."""
    stem, kind = name.rsplit(".", 1)
    part = ".".join(stem.split(".")[3:]) if stem.startswith("model.layers.") else stem
    prefix = stem.removesuffix(part)
    if architecture.family == "llama" and part in _LLAMA_PARTS:
        heights = (
            (architecture.query_width, architecture.kv_width, architecture.kv_width)
            if part == "self_attn.qkv_proj"
            else (architecture.intermediate_size,) * 2
        )
        names = (f"{prefix}{stored}.{kind}" for stored in _LLAMA_PARTS[part])
        return Sources(
            tuple((stored, (rows, *shape[1:])) for stored, rows in zip(names, heights, strict=True)),
        )
    if architecture.family == "phi3small" and part in _SMALL_NAMES:
        stored, order = _SMALL_NAMES[part]
        return Sources(((f"{prefix}{stored}.{kind}", shape),), order)
    return Sources(((name, shape),))


def stored_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that the checkpoint must hold, by its stored name, in file order."""
    return dict(
        part
        for name, shape in architecture.tensor_shapes().items()
        for part in sources_of(architecture, name, shape).parts
    )


def canonical_names(architecture: Architecture) -> dict[str, str]:
    """Return the canonical tensor that each stored one is a part of, by the stored name."""
    return {
        stored: name
        for name, shape in architecture.tensor_shapes().items()
        for stored, _ in sources_of(architecture, name, shape).parts
    }
