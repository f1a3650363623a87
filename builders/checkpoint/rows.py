"""Rows of a stored tensor in the canonical order that all families share (`targets/layouts.py`): views, no copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from targets.architecture import Architecture
from targets.layouts import RowOrder


def in_canonical_order(
    canonical: NDArray[Any], stored: NDArray[Any], order: RowOrder, architecture: Architecture
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield pairs of views of one shape, a canonical one and a stored one, which cover both arrays [rows, ...]."""
    if order == "as stored":
        yield canonical, stored
    elif order == "in turn":
        half = len(stored) // 2
        yield canonical[:half], stored[0::2]
        yield canonical[half:], stored[1::2]
    else:
        yield from _by_key_head(canonical, stored, architecture)


def _by_key_head(
    canonical: NDArray[Any], stored: NDArray[Any], architecture: Architecture
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    kv_heads, size = architecture.kv_head_count, architecture.head_dim
    group = architecture.head_count // kv_heads
    heads = stored.reshape(kv_heads, group + 2, size, *stored.shape[1:])
    start = 0
    for first, count in ((0, group), (group, 1), (group + 1, 1)):
        rows = kv_heads * count * size
        place = canonical[start : start + rows].reshape(kv_heads, count, size, *stored.shape[1:])
        yield place, heads[:, first : first + count]
        start += rows
