"""Whether a calibration text has passages of an evaluation's: then its figures would praise what was calibrated on it.

Texts are compared by windows of 64 characters without white space and case, about 16 tokens of English: long enough
that two authors hardly write the same by chance, and short enough to find a paragraph. Characters, not tokens: line
breaks and tokenizers change nothing, and no checkpoint is needed. Common formulas (a licence's header, a list of
months) stay below the bound of 1 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.text import CHARACTERS_READ, CalibrationText
from targets.errors import CalibrationError

WINDOW = 64  # characters; a power of two
BOUND = 0.01  # of the windows of the shorter text
_FACTOR = 0x9E3779B97F4A7C15  # odd: multiplying by it loses nothing


def require_unseen(text: CalibrationText, evaluation: str, name: str) -> None:
    """Refuse a calibration text that shares passages with an evaluation's text. `name`: the evaluation's, for people.

    Raises:
        CalibrationError: more than 1 % of the shorter one is in the other.
    """
    share = shared_share(text.plain, evaluation[:CHARACTERS_READ])  # of which an evaluation reads the beginning
    if share > BOUND:
        raise CalibrationError(
            f"{text.name} and {name}, which bundles are evaluated on, share passages: {100 * share:.0f} % of the "
            "shorter one is in the other. Weights would be calibrated on what they are measured with",
            fix="calibrate on another text, or evaluate on another one: [calibration] text and [evaluation] text in "
            "the project file, --calibration-text of phipack build; those that come with phipack share nothing",
        )


def shared_share(one: str, other: str) -> float:
    """Return how many of the windows of the shorter text are in the other one, as a share."""
    shorter, longer = sorted((_windows(one), _windows(other)), key=len)
    wanted = np.unique(shorter)
    if not len(wanted):
        return 0.0
    found = np.zeros(len(wanted), dtype=bool)
    places = np.minimum(np.searchsorted(wanted, longer), len(wanted) - 1)
    found[places[wanted[places] == longer]] = True
    return float(found.mean())


def _windows(text: str) -> NDArray[np.uint64]:
    """Return the hash of the window at each letter of a text."""
    letters = "".join(text.split()).casefold()
    hashes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    factor, length = _FACTOR, 1
    while length < WINDOW:  # of a window twice as long: factor · left half + right half, modulo 2**64
        hashes = hashes[:-length] * np.uint64(factor) + hashes[length:]
        factor, length = pow(factor, 2, 1 << 64), 2 * length
    return hashes
