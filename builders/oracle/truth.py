"""`Truth`, a model that is not phipack's: the numbers of its config, and the states of its first layers.

Sequences are short, whatever the model: the sliding window, longrope's original context and the dense stretch of sparse
layers are each one number that positions are compared with. It is compared with phipack's as a number. Then both sides
take a smaller one in its place, so that a short sequence is past it. At the real length float32 would hide more than it
shows: transformers computes angles in float32, which at position 4,000 are off by up to 5e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from builders.oracle.states import Observed

Edge = Literal["sliding_window", "original_max_position_embeddings", "blocksparse_num_local_blocks"]
TOKENS = 96
CUT: dict[Edge, int] = {  # the largest edge that is used; of sparse layers, blocks of 4 tokens, 2 of them local
    "sliding_window": 40,
    "original_max_position_embeddings": 56,
    "blocksparse_num_local_blocks": 8,
}
CUT_BLOCK_TOKENS, CUT_LOCAL_BLOCKS = 4, 2


@dataclass(frozen=True)
class Probe:
    """A sequence that is computed. `edge`: what it is past, and `past`: the number that is used for it, in tokens."""

    tokens: NDArray[np.int64]
    edge: Edge | None = None
    past: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether both sides take another number than their own for the edge."""
        return self.edge is not None and self.past == CUT[self.edge]

    def __str__(self) -> str:
        of = "" if self.edge is None else f", past {self.edge} of {self.past}"
        return f"{len(self.tokens)} tokens{of}"


@dataclass(frozen=True)
class Numbers:
    """Numbers of `config.json` that the first layers alone don't show.

    `edges`: the lengths, in tokens, after which attention or the rope changes, by name.
    """

    layers: int
    vocabulary: int
    context: int
    edges: dict[Edge, int]

    def probes(self) -> list[Probe]:
        """Return a short sequence, and one past each edge that is within the context, of random ids.

        The first two ids are the vocabulary's first and last.
        """
        made = np.random.default_rng(0)
        length = min(TOKENS, self.context)
        tokens = made.integers(0, self.vocabulary, length)
        tokens[: min(2, length)] = [0, self.vocabulary - 1][: min(2, length)]
        original = self.edges.get("original_max_position_embeddings", length)
        found = [Probe(tokens[:original])]
        for edge, number in self.edges.items():
            if number < self.context:
                found.append(Probe(tokens, edge, min(number, CUT[edge])))
        return found


class Truth(Protocol):
    """A model that is not phipack's."""

    @property
    def name(self) -> str:
        """What it is, with its version."""
        ...

    def numbers(self) -> Numbers:
        """Return what it reads in the config."""
        ...

    def observe(self, probes: Sequence[Probe], layers: int) -> list[Observed]:
        """Compute sequences from an empty context, in float32, with the first layers only.

        Raises:
            MeasurementError: it can't load the checkpoint.
        """
        ...
