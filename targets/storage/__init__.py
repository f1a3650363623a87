"""The storage type and the bytes of each tensor: one module for each format, pure arithmetic.

`fit` predicts sizes from these plans, and the converters write exactly what the plans list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from targets.errors import RecipeError


@dataclass(frozen=True)
class StoredWeight:
    """One weight as a bundle stores it. `name`: the checkpoint's tensor; `bytes`: its data, scales included."""

    name: str
    storage: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Candidate:
    """One way in which a format can store a matrix.

    Attributes:
        storage: as `StoredWeight.storage` names it.
        bytes: its data, scales included.
        file_bytes: with the padding that its arrays have in a file.
        types: those of its parts: itself, unless some of its rows are stored otherwise.
    """

    storage: str
    bytes: int
    file_bytes: int
    types: tuple[str, ...]


def padded(size: int, alignment: int) -> int:
    """Return the least multiple of an alignment that is not below a size."""
    return -(-size // alignment) * alignment


def require_candidate(name: str, storage: str, candidates: Sequence[Candidate]) -> None:
    """Check that a type that was chosen for a matrix is one that it can have. Raises `RecipeError`."""
    possible = [candidate.storage for candidate in candidates]
    if storage not in possible:
        raise RecipeError(
            f"{name} can't be stored as {storage!r}",
            fix=f"choose one of: {'; '.join(possible)}; or ask for a budget, which chooses the types",
        )
