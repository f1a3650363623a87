"""KV caches of several sequences in onnxruntime, each in a row of its own: `builders/runtime/together.py`.

A layer's caches are one buffer [rows, heads, room, head size]. A prompt is read into its row alone. A step runs the
first rows, those of the sequences that go on; a row that does not moves behind them. How long each is says the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.runtime.session import Tokens

# Ids [rows, new], mask [rows, total], and caches by name -> logits [rows, new, vocabulary].
Run = Callable[[NDArray[np.int64], NDArray[np.int64], Mapping[str, NDArray[Any]]], NDArray[np.float32]]


class OnnxPlaces:
    """Implements `builders.runtime.together.Places`."""

    def __init__(self, run: Run, count: int, room: int, caches: Mapping[str, tuple[tuple[int, int], Any]]) -> None:
        """Allocate caches. `caches`: heads and head size, and the dtype, by the cache's name."""
        self.count, self.room = count, room
        self._run = run
        self._caches = {
            name: np.zeros((count, heads, room, size), dtype) for name, ((heads, size), dtype) in caches.items()
        }
        self._row = list(range(count))  # of each place

    def read(self, place: int, tokens: Tokens, kept: int) -> NDArray[np.float32]:
        """Read a sequence from token `kept` on: logits [vocabulary] after its last token."""
        row = self._row[place]
        mask = np.ones((1, len(tokens)), np.int64)
        return self._run(tokens[None, kept:], mask, self._rows(row, row + 1))[0, -1]

    def step(self, tokens: Mapping[int, int], lengths: Mapping[int, int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Go one token further in some places: yield each place with its logits [vocabulary]."""
        self._move_to_front(tokens)
        order = sorted(tokens, key=lambda place: self._row[place])
        ids = np.asarray([[tokens[place]] for place in order], np.int64)
        after = np.asarray([lengths[place] + 1 for place in order])
        mask = (np.arange(after.max()) < after[:, None]).astype(np.int64)
        logits = self._run(ids, mask, self._rows(0, len(order)))
        yield from zip(order, logits[:, 0], strict=True)

    def close(self) -> None:
        """Free the caches."""
        self._caches = {}

    def _rows(self, first: int, last: int) -> dict[str, NDArray[Any]]:
        return {name: cache[first:last] for name, cache in self._caches.items()}

    def _move_to_front(self, places: Mapping[int, int]) -> None:
        """Exchange rows until those of some places are the first."""
        place_of = {row: place for place, row in enumerate(self._row)}
        behind = [place for place in places if self._row[place] >= len(places)]
        vacant = [place_of[row] for row in range(len(places)) if place_of[row] not in places]
        for mover, other in zip(behind, vacant, strict=True):
            one, two = self._row[mover], self._row[other]
            for cache in self._caches.values():
                cache[[one, two]] = cache[[two, one]]
            self._row[mover], self._row[other] = two, one
