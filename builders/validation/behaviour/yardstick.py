"""How far a bundle's answers may be from the reference's: measured in units of what rounding alone costs the model.

A fixed bound would be too tight for one model and too loose for another, so each checkpoint is its own yardstick: the
reference is computed once more, with weights rounded to the bundle's bits in the plainest way, what they are multiplied
with to 8 bits where they have 8 bits, and states to float16 (`builders/reference/rounded.py`). A bundle may be some
times as far from the reference as that (`_FACTORS`), plus what float16 costs inside attention (`FLOOR_…`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.reference import FloatReference
from builders.reference.rounded import rounded_logits
from builders.validation.compare import divergence, log_softmax
from registry.bundle.manifest import Manifest
from targets.storage.bits import bits_of

Logits = NDArray[np.float32]
_MEASURE = 2  # raise it when what is measured changes: older files are then not read
FLOOR_KL, FLOOR_LOG_PROBABILITY = 4e-6, 4e-3  # nat
# Bits -> (factor of the mean, factor of a single position). With few bits recipes round better than the yardstick.
_FACTORS = {16: (8.0, 12.0), 8: (4.0, 8.0), 1: (2.0, 3.0)}


@dataclass(frozen=True)
class Distance:
    """How far distributions are from the reference's, in nats, over some positions.

    `special`: largest difference of a log-probability of a special token.
    """

    kl_mean: float
    kl_most: float
    special: float


@dataclass(frozen=True)
class Yardstick:
    """The distance that rounding alone makes, and the bounds that follow."""

    rounding: Distance
    bits: int

    @property
    def _factors(self) -> tuple[float, float]:
        return next(factors for bits, factors in _FACTORS.items() if self.bits >= bits)

    @property
    def kl_mean(self) -> float:
        """Bound of the mean over ordinary positions."""
        return FLOOR_KL + self._factors[0] * self.rounding.kl_mean

    @property
    def kl(self) -> float:
        """Bound at a single position."""
        return FLOOR_KL + self._factors[1] * self.rounding.kl_most

    @property
    def special(self) -> float:
        """Bound of a special token's log-probability."""
        return FLOOR_LOG_PROBABILITY + self._factors[1] * self.rounding.special


def measure_yardstick(
    reference: FloatReference, tokens: NDArray[np.int64], expected: Callable[[], Logits], bits: int, special: list[int]
) -> Yardstick:
    """Compute the reference once more, rounded. What was measured is kept: other bundles with as many bits ask for it.

    `expected`: returns the reference's logits [T, vocabulary] after each of the tokens [T].
    """
    key = np.asarray([[_MEASURE, bits, len(special), *special, *tokens]])
    kept = reference.cached(key, "yardstick", (3,))
    if kept is None:
        found = distance(expected(), rounded_logits(reference.checkpoint, tokens, bits), special)
        kept = np.asarray([found.kl_mean, found.kl_most, found.special], np.float32)
        reference.keep(key, "yardstick", kept)
    return Yardstick(Distance(*map(float, kept)), bits)


def distance(expected: Logits, found: Logits, special: list[int]) -> Distance:
    """Compare logits [T, vocabulary]."""
    log_p, log_q = log_softmax(expected), log_softmax(found)
    kl = divergence(log_p, log_q)
    with np.errstate(invalid="ignore"):
        apart = np.abs(log_p[:, special] - log_q[:, special])
    apart[np.isneginf(log_p[:, special]) & np.isneginf(log_q[:, special])] = 0  # ruled out by both
    return Distance(float(kl.mean()), float(kl.max()), float(apart.max(initial=0)))


def fewest_bits(manifest: Manifest) -> int:
    """Return the bits of the coarsest storage that the bundle's matrices, keys or values have: at most 16.

    Raises:
        BundleError: the manifest names a storage that is not known.
    """
    cache = [manifest.recipe.kv_cache] if manifest.recipe.kv_cache else []
    return min([16, *(bits_of(label) for label in [*(each.storage for each in manifest.recipe.weights), *cache])])
