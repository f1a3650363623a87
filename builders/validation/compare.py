"""How far a bundle's next-token distributions are from the reference's. Pure numpy, window by window.

KL divergence is sum p (log p - log q) with p the reference's distribution and q the bundle's, in nats, as llama.cpp's
perplexity tool reports it; all in float64. Perplexity is exp of the mean negative log-likelihood of the next token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from targets.errors import MeasurementError

Logits = NDArray[np.float32]
_ROWS = 128  # rows of logits that are widened to float64 at a time


@dataclass
class Comparison:
    """Accumulates windows. Every position counts for KL and same-top, all but a window's last for perplexity.

    Positions whose next token the reference rules out (Phi-3-small's unused ids) don't count for perplexity: it would
    always be infinite. A token that only the bundle rules out makes its perplexity infinite.

    Memory: one number a position, and the logits of a few rows in float64.
    """

    _divergences: list[NDArray[np.float64]] = field(default_factory=list)
    _same_top: int = 0
    _positions: int = 0
    _nll: float = 0.0
    _reference_nll: float = 0.0
    _predicted: int = 0

    def add(self, reference: Logits, bundle: Logits, tokens: NDArray[np.int64]) -> None:
        """Add one window: logits [T, vocabulary] of both after each of its tokens [T].

        Raises:
            MeasurementError: shapes differ, or a row is not a distribution: NaN, +inf, or -inf throughout.
        """
        if reference.shape != bundle.shape or len(tokens) != len(reference):
            raise MeasurementError(
                f"logits of shape {list(bundle.shape)} from the bundle, {list(reference.shape)} from the reference, "
                f"for {len(tokens)} tokens",
                fix="compare a bundle with the checkpoint that it was built from",
            )
        for whose, logits in (("reference", reference), ("bundle", bundle)):
            _refuse_nonsense(logits, whose)
        self._same_top += int((reference.argmax(-1) == bundle.argmax(-1)).sum())
        self._positions += len(tokens)
        for start in range(0, len(tokens), _ROWS):
            rows = slice(start, start + _ROWS)
            log_p, log_q = log_softmax(reference[rows]), log_softmax(bundle[rows])
            self._divergences.append(divergence(log_p, log_q))
            following = tokens[start + 1 : start + _ROWS + 1]
            places = np.arange(len(following))
            asked, given = log_p[places, following], log_q[places, following]
            possible = np.isfinite(asked)
            self._reference_nll -= float(asked[possible].sum())
            self._nll -= float(given[possible].sum())
            self._predicted += int(possible.sum())

    def figures(self) -> dict[str, float]:
        """Return the figures by the names of `targets.evidence.FIGURES`, of at least one window of two tokens.

        Raises:
            MeasurementError: the reference rules out every token of the text.
        """
        if not self._predicted:
            raise MeasurementError("the reference rules out every token of the text", fix="use another --text")
        kl = np.concatenate(self._divergences)
        with np.errstate(over="ignore"):  # a bundle that rules the text out has an infinite perplexity
            perplexity = float(np.exp(self._nll / self._predicted))
            reference_perplexity = float(np.exp(self._reference_nll / self._predicted))
            ratio = float(np.exp((self._nll - self._reference_nll) / self._predicted))
        return {
            "kl_mean": float(kl.mean()),
            "kl_median": _quantile(kl, 0.5),
            "kl_p99": _quantile(kl, 0.99),
            "kl_max": float(kl.max()),
            "same_top_share": self._same_top / self._positions,
            "perplexity": perplexity,
            "reference_perplexity": reference_perplexity,
            "perplexity_ratio": ratio,
        }


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Return log-probabilities, float64, over the last axis. A logit of -inf is a probability of 0."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def _quantile(values: NDArray[np.float64], share: float) -> float:
    """Return a quantile, interpolated as numpy does; between infinities too, where numpy returns NaN."""
    place = share * (len(values) - 1)
    low, high = np.sort(values)[[int(np.floor(place)), int(np.ceil(place))]]
    return float(low if low == high else low + (place - np.floor(place)) * (high - low))


def _refuse_nonsense(logits: Logits, whose: str) -> None:
    """Raise `MeasurementError` for a row that is not a distribution. A single -inf is fine: it rules a token out."""
    tops = logits.max(-1)  # NaN where any is NaN
    if not np.isfinite(tops).all():
        place = int(np.flatnonzero(~np.isfinite(tops))[0])
        raise MeasurementError(
            f"the {whose}'s logits after token {place} are not a distribution: their maximum is {tops[place]}",
            fix="the weights or the runtime's arithmetic overflow: use a recipe of wider range, such as onnx-int4",
        )


def divergence(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(p‖q) for each row. Infinite where q rules out what p allows; rounding never makes it negative."""
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (log_p - log_q), 0.0)
    return np.maximum(terms.sum(-1), 0.0)


def matching_share(expected: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """Return the share of tokens [P, N] before the first difference in their continuation."""
    before_difference = np.cumprod(expected == found, axis=1)
    return float(before_difference.mean())
