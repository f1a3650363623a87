"""Tensor sources for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class UnreadSource:
    """Implements `builders.checkpoint.TensorSource`: fails the test that reads a weight."""

    def tensor(self, name: str) -> NDArray[np.float32]:
        raise AssertionError(f"{name} is read")

    def stored_tensor(self, name: str) -> NDArray[np.float32]:
        raise AssertionError(f"{name} is read")

    def rows(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        raise AssertionError(f"{len(ids)} rows of {name} are read")
