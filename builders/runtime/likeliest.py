"""Logits that have a likeliest token: those that are NaN or infinite have none, and an argmax of them is the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from targets.errors import MeasurementError


def require_likeliest(logits: NDArray[np.float32], length: int) -> None:
    """Raise `MeasurementError` where logits after `length` tokens have no largest number: the first would be taken."""
    largest = logits.max()  # NaN where any is NaN; a single -inf rules a token out
    if not np.isfinite(largest):
        raise MeasurementError(
            f"the logits after {length} tokens are no scores of tokens: their maximum is {largest}",
            fix="check the bundle with phipack inspect --verify; if it is whole, its arithmetic overflows: build a "
            "recipe of wider range, such as onnx-int4",
        )
