"""`Truth`, a model that is not phipack's: the numbers of its config, and the states of its first layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from builders.oracle.states import KEPT, Observed

SHORT_TOKENS = 64
PAST_EDGE_TOKENS = 32
LONGEST_TOKENS = 8320  # of a sequence that is computed: Phi-3-small-128k's longrope begins after 8,192


@dataclass(frozen=True)
class Numbers:
    """Numbers of `config.json` that the first layers alone don't show.

    `edges`: the lengths, in tokens, after which attention or the rope changes: the sliding window, longrope's original
    context, and the longest sequence for which sparse layers are dense. By name.
    """

    layers: int
    vocabulary: int
    context: int
    edges: dict[str, int]

    def sequences(self) -> list[NDArray[np.int64]]:
        """Return what is read: a short sequence, and one across each edge that is within the context, of random ids.

        The first ids of each are the vocabulary's first and last. An edge past `LONGEST_TOKENS` is compared as a number
        only: no released model has one within its context.
        """
        short = min(SHORT_TOKENS, self.context, *self.edges.values())
        crossed = (
            min(edge + PAST_EDGE_TOKENS, self.context)
            for edge in self.edges.values()
            if edge < self.context and edge + PAST_EDGE_TOKENS <= LONGEST_TOKENS
        )
        made = np.random.default_rng(0)
        found = [made.integers(0, self.vocabulary, length) for length in sorted({short, *crossed})]
        for tokens in found:
            own = tokens[-KEPT:]
            own[: min(2, len(own))] = [0, self.vocabulary - 1][: len(own)]
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

    def observe(self, sequences: Sequence[NDArray[np.int64]], layers: int) -> list[Observed]:
        """Compute sequences from an empty context, in float32, with the first layers only.

        Raises:
            MeasurementError: it can't load the checkpoint.
        """
        ...
