"""Cosine and sine tables of rotary positions.

Angles are float64, as in the reference's forward pass: at position 100,000 a float32 angle is off by .004, and float32
cosines differ in their last bit from one processor to another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from targets.architecture import Architecture

Table = NDArray[np.float32]


def rotary_tables(architecture: Architecture, context_length: int) -> tuple[Table, Table]:
    """Return cosines and sines, [rows, rotary_dim / 2] each; row p is position p.

    Where longrope's edge lies inside the context, the rows of the short factors (positions up to the edge) are followed
    by those of the long factors for all positions: a sequence past the edge reads at an offset of `original_context`.
    """
    rope = architecture.longrope
    if rope is None:
        return _tables(architecture, context_length, divisors=None, factor=1.0)
    if architecture.longrope_edge(context_length) is None:
        return _tables(architecture, context_length, divisors=rope.short, factor=rope.short_attention_factor)
    short = _tables(architecture, rope.original_context, divisors=rope.short, factor=rope.short_attention_factor)
    long = _tables(architecture, context_length, divisors=rope.long, factor=rope.long_attention_factor)
    return np.concatenate([short[0], long[0]]), np.concatenate([short[1], long[1]])


def last_turns(architecture: Architecture, context_length: int) -> list[tuple[NDArray[np.float64], float]]:
    """Return the angles [rotary_dim / 2] of the last position, and what rotated pairs are multiplied by.

    Two of them where the tables have rows of longrope's short and of its long factors.
    """
    rope, edge = architecture.longrope, architecture.longrope_edge(context_length)
    if rope is None:
        return [((context_length - 1) / _periods(architecture, None), 1.0)]
    short = (edge or context_length) - 1
    found = [(short / _periods(architecture, rope.short), rope.short_attention_factor)]
    if edge is not None:
        found.append(((context_length - 1) / _periods(architecture, rope.long), rope.long_attention_factor))
    return found


def _periods(architecture: Architecture, divisors: tuple[float, ...] | None) -> NDArray[np.float64]:
    width = architecture.rotary_dim
    periods = architecture.rope_theta ** (np.arange(0, width, 2, dtype=np.float64) / width)
    return periods if divisors is None else periods * divisors


def _tables(
    architecture: Architecture, rows: int, *, divisors: tuple[float, ...] | None, factor: float
) -> tuple[Table, Table]:
    angles = np.arange(rows, dtype=np.float64)[:, None] / _periods(architecture, divisors)[None, :]
    return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)
