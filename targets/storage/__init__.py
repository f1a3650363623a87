"""The storage type and the bytes of each tensor: one module for each format, pure arithmetic.

`fit` predicts sizes from these plans, and the converters write exactly what the plans list.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredWeight:
    """One weight as a bundle stores it. `name`: the checkpoint's tensor; `bytes`: its data, scales included."""

    name: str
    storage: str
    shape: tuple[int, ...]
    bytes: int
