"""The contract of a running bundle: what validation and `phipack generate` ask of each format's runtime.

Each format has one class that implements it: `gguf_session.py` (llama.cpp), `onnx_session.py` (onnxruntime) and
`coreml/session.py` (`predict` on macOS, elsewhere the packaged program evaluated).
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Session(Protocol):
    """A bundle opened in a runtime. Holds one sequence: its KV cache.

    Laws, up to the runtime's rounding: `score(t)[-1]` equals `prefill(t)`, and so does `extend(t[n:])` after
    `prefill(t[:n])`; `step(t)` is `extend([t])`. `score` and `prefill` start from an empty cache, whatever came before.
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

    def close(self) -> None:
        """Free the runtime's memory. The session can't be used after it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
