"""The contract of a running bundle: what validation and `phipack generate` ask of each format's runtime.

Each format has one class that implements it: `gguf_session.py` (llama.cpp), `onnx_session.py` (onnxruntime) and
`coreml/session.py` (`predict` on macOS, elsewhere the packaged program evaluated).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
PART_TOKENS = 512  # of a long sequence that are read together, and whose logits are in memory


class Session(Protocol):
    """A bundle opened in a runtime. Holds one sequence: its KV cache.

    Laws, up to the runtime's rounding: `score(t)[-1]` equals `prefill(t)`, and so does `extend(t[n:])` after
    `prefill(t[:n])`; `step(t)` is `extend([t])`. `score` and `prefill` start from an empty cache, whatever came before.

    A runtime's class inherits what it can't do faster: `score_each` and `continue_each` go one by one. Both start from
    an empty cache, and leave an undefined one.
    """

    runtime: str  # as evidence names it: "llama.cpp (llama-cpp-python 0.3.36)"
    is_own_runtime: bool  # False where its speed and memory say nothing about the format (Core ML on Linux)

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits [T, vocabulary] after each of T tokens, from an empty cache, which is undefined afterwards."""
        ...

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
        ...

    def extend(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Continue the sequence by tokens that are read together: logits [vocabulary] after the last one.

        A sequence that passes longrope's edge is read again from its start, which callers don't notice.
        """
        ...

    def step(self, token: int) -> NDArray[np.float32]:
        """Go one token further: logits [vocabulary] after it."""
        ...

    def score_each(self, windows: Sequence[Tokens]) -> Iterator[NDArray[np.float32]]:
        """Yield `score(window)` for each window: the same numbers. A runtime may read its weights once for several."""
        for window in windows:
            yield self.score(window)

    def score_end(self, tokens: Tokens, first: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of `score(tokens)` from `first` on, those of a part of the sequence (`parts_from`) at a time.

        A runtime may read part after part, so that the logits of all tokens are never in memory.
        """
        logits = self.score(tokens)
        for start, stop in parts_from(first, len(tokens)):
            yield logits[max(first, start) : stop]

    def continue_each(
        self, prompts: Sequence[Tokens], count: int, *, stops: Collection[int] = (), known: Sequence[Tokens] = ()
    ) -> Iterator[Tokens]:
        """Yield each prompt's continuation by the likeliest token: `count` tokens, or fewer.

        It ends with the first token that is one of `stops`, or that differs from `known`, where that is set: what
        another model writes after each prompt, or the beginning of it.
        """
        for number, prompt in enumerate(prompts):
            end = End(count, stops, known[number] if len(known) else ())
            found = [int(self.prefill(prompt).argmax())]
            while not end.is_reached(found):
                found.append(int(self.step(found[-1]).argmax()))
            yield np.asarray(found, np.int64)

    def close(self) -> None:
        """Free the runtime's memory. The session can't be used after it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def parts_from(first: int, length: int) -> list[tuple[int, int]]:
    """Return where the parts of a sequence begin and end that have token `first` or later ones."""
    start = first - first % PART_TOKENS
    return [(at, min(at + PART_TOKENS, length)) for at in range(start, length, PART_TOKENS)]


def end_in_parts(
    read: Callable[[Tokens], NDArray[np.float32]], tokens: Tokens, first: int
) -> Iterator[NDArray[np.float32]]:
    """Read a sequence part by part, and yield the logits from token `first` on. `read`: goes on with some tokens."""
    for start, stop in parts_from(0, len(tokens)):
        logits = read(tokens[start:stop])
        if stop > first:
            yield logits[max(0, first - start) :]


@dataclass(frozen=True)
class End:
    """Where a continuation ends: after `count` tokens, one of `stops`, or the first that differs from `known`."""

    count: int
    stops: Collection[int]
    known: Sequence[int] | Tokens

    def is_reached(self, found: Sequence[int]) -> bool:
        """Return whether a continuation of at least one token ends with its last."""
        place = len(found) - 1
        differs = place < len(self.known) and found[place] != self.known[place]
        return len(found) >= self.count or found[place] in self.stops or differs
