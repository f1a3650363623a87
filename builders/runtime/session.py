"""The contract of a running bundle: what validation and `phipack generate` ask of each format's runtime.

One class a format implements it: `builders/gguf/session.py` (llama.cpp), `builders/onnx/session.py` (onnxruntime),
`builders/coreml/session.py` (the packaged program evaluated on Linux, `predict` on macOS).
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Session(Protocol):
    """A bundle opened in a runtime. Holds one sequence: its KV cache.

    Laws: `score(t)[-1]` equals `prefill(t)` up to the runtime's rounding; `prefill(t[:-1]); step(t[-1])` equals
    `prefill(t)` likewise; `score` and `prefill` start from an empty cache whatever came before.
    """

    runtime: str  # as evidence names it: "llama.cpp (llama-cpp-python 0.3.36)"
    is_own_runtime: bool  # False where the figures of speed and memory say nothing about the format (Core ML on Linux)

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits [T, vocabulary] after each of T tokens, teacher-forced, from an empty cache. Leaves it undefined."""
        ...

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
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
