"""Which tensor gets which type, and how many bytes that takes: one module a format, pure arithmetic.

`fit` predicts sizes with these plans, and the converters write what they say: the choice is made in one place.
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
