"""Which lengths of sequences a runtime computes as the checkpoint does, and where attention or the rope changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from registry.bundle.manifest import ExactContext
from targets.architecture import Architecture


class Exactness(Protocol):
    """How long a bundle's sequences may be, and which of them its runtime computes exactly, as a manifest says it."""

    @property
    def context_length(self) -> int:
        """The longest, in tokens."""
        ...

    @property
    def exact_context_length(self) -> int:
        """The longest up to which all are exact."""
        ...

    @property
    def exact_contexts(self) -> Sequence[ExactContext]:
        """The lengths that are exact where it depends on how the runtime is opened; empty where it does not."""
        ...


def edges_of(architecture: Architecture, context_length: int) -> dict[str, int]:
    """Return the longest sequence before each change within a context, by what changes."""
    sparse = architecture.effective_sparsity(context_length)
    found = architecture.edges(context_length)
    if sparse is not None:
        found["the dense stretch of sparse layers"] = sparse.dense_up_to
    within = {name: edge for name, edge in found.items() if edge < context_length}
    return within | {"the context's end": context_length}


def is_exact(model: Exactness, length: int) -> bool:
    """Return whether the manifest says that the runtime computes sequences of this length as the checkpoint does."""
    if not model.exact_contexts:
        return length <= model.exact_context_length
    return any(context.first <= length <= context.last for context in model.exact_contexts)


def first_limit(model: Exactness, edges: Mapping[str, int]) -> int:
    """Return the longest sequence that stays on one side of every edge; 0 where none is exact."""
    return min((edge for edge in edges.values() if is_exact(model, edge)), default=0)
