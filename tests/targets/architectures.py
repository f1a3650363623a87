"""Architectures for tests of sizes: any shape that all three formats support."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from targets.architecture import Architecture
from targets.models import KNOWN_MODELS

SMALL = replace(
    KNOWN_MODELS["phi-3-mini-4k-instruct"],
    layer_count=2,
    hidden_size=64,
    intermediate_size=128,
    head_count=4,
    kv_head_count=2,
    head_dim=16,
    vocabulary_size=320,
    context_length=2048,
    sliding_window=None,
)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Small ones, with and without shared key heads, tied embeddings and a window."""
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 4))
    head_dim = 32 * draw(st.integers(1, 4))
    rotated = draw(st.sampled_from((head_dim // 2, 3 * head_dim // 4, head_dim)))
    context = draw(st.integers(64, 8192))
    return replace(
        SMALL,
        layer_count=draw(st.integers(1, 5)),
        hidden_size=heads * head_dim,
        intermediate_size=32 * draw(st.integers(1, 40)),
        head_count=heads,
        kv_head_count=kv_heads,
        head_dim=head_dim,
        partial_rotary_dim=None if rotated == head_dim or rotated % 16 else rotated,
        vocabulary_size=draw(st.integers(100, 4000)),
        context_length=context,
        tied_embeddings=draw(st.booleans()),
        sliding_window=draw(st.none() | st.integers(1, 10_000)),
    )
