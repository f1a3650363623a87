"""Logits are the scores of next tokens: of those that are NaN an argmax is the first token, and a KL is NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from targets.errors import MeasurementError


def require_distributions(logits: NDArray[np.float32], whose: str, *, first: int = 0) -> None:
    """Raise `MeasurementError` for a row of logits [..., vocabulary] that is no distribution: NaN, +inf, or all -inf.

    A single -inf is fine: it rules a token out. `first`: the number of the token, from 0, that the first row is after.
    """
    tops = logits.max(-1).reshape(-1)  # NaN where any is NaN
    if not np.isfinite(tops).all():
        place = int(np.flatnonzero(~np.isfinite(tops))[0])
        raise MeasurementError(
            f"the {whose}'s logits after token {first + place} are not a distribution: their maximum is {tops[place]}",
            fix="check the files with phipack inspect --verify; if they are whole, the weights or the runtime's "
            "arithmetic overflow: use a recipe of wider range, such as onnx-int4",
        )
