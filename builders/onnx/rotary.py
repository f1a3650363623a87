"""Cosine and sine tables of rotary positions, as transformers' Phi3RotaryEmbedding computes them: in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from targets.architecture import Architecture
from targets.storage.onnx import longrope_edge

Table = NDArray[np.float32]


def rotary_tables(architecture: Architecture, context_length: int) -> tuple[Table, Table]:
    """Cosines and sines, [rows, head_dim / 2] each; row p is position p.

    Where longrope's edge lies inside the context, the rows of the short factors (positions up to the edge) are followed
    by those of the long factors for all positions: a sequence past the edge reads at an offset of `original_context`.
    """
    rope = architecture.longrope
    if rope is None:
        return _tables(architecture, context_length, divisors=None, factor=1.0)
    if longrope_edge(architecture, context_length) is None:
        return _tables(architecture, context_length, divisors=rope.short, factor=rope.short_attention_factor)
    short = _tables(architecture, rope.original_context, divisors=rope.short, factor=rope.short_attention_factor)
    long = _tables(architecture, context_length, divisors=rope.long, factor=rope.long_attention_factor)
    return np.concatenate([short[0], long[0]]), np.concatenate([short[1], long[1]])


def _tables(
    architecture: Architecture, rows: int, *, divisors: tuple[float, ...] | None, factor: float
) -> tuple[Table, Table]:
    exponents = np.arange(0, architecture.head_dim, 2, dtype=np.float32) / np.float32(architecture.head_dim)
    periods = np.float32(architecture.rope_theta) ** exponents
    if divisors is not None:
        periods = np.asarray(divisors, dtype=np.float32) * periods
    angles = np.arange(rows, dtype=np.float32)[:, None] * (np.float32(1) / periods)[None, :]
    return np.cos(angles) * np.float32(factor), np.sin(angles) * np.float32(factor)
