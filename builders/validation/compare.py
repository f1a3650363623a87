"""How far a bundle's next-token distributions are from the reference's. Pure numpy, window by window.

KL divergence is sum p (log p - log q) with p the reference's distribution and q the bundle's, in nats, as llama.cpp's
perplexity tool reports it; all in float64. Perplexity is exp of the mean negative log-likelihood of the next token.
How sure a mean is: `standard_error.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from builders.runtime.distributions import require_distributions
from builders.validation.standard_error import block_numbers, standard_error
from targets.errors import MeasurementError

Logits = NDArray[np.float32]
_ROWS = 4  # rows of logits that are widened to float64 at a time: what the processor's cache holds


NO_TOKEN = -1  # in place of the token after a window's last


@dataclass(frozen=True)
class Rows:
    """Compared positions, an element each.

    `position`: of the token in its sequence, from 1. `following`: the next token's id, or `NO_TOKEN`. `block`: number
    of the block of neighbours it belongs to. `surprise`: negative log-likelihood of the next token by the reference
    and by the bundle; NaN where there is no next token, or the reference rules it out.
    """

    kl: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    position: NDArray[np.int64]
    following: NDArray[np.int64]
    block: NDArray[np.int64]
    reference_surprise: NDArray[np.float64]
    surprise: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """Return some of the positions."""
        return Rows(*(getattr(self, each.name)[chosen] for each in fields(self)))

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """Return the positions of all parts, at least one. Their blocks stay apart."""
        ends = np.cumsum([0, *(int(part.block.max(initial=-1)) + 1 for part in parts)])
        columns = {each.name: [getattr(part, each.name) for part in parts] for each in fields(cls)}
        columns["block"] = [part.block + start for part, start in zip(parts, ends[:-1], strict=True)]
        return cls(**{name: np.concatenate(values) for name, values in columns.items()})

    def perplexity_ratio(self) -> float:
        """Return how much larger the bundle's perplexity is.

        Raises:
            MeasurementError: the reference rules out every token of the text.
        """
        reference, found = self._predicted()
        with np.errstate(over="ignore"):
            return float(np.exp(found.mean() - reference.mean()))

    def figures(self) -> dict[str, float]:
        """Return the figures by the names of `targets.evidence.FIGURES`, of at least one window of two tokens.

        `kl_standard_error` is left out of a text too short for it.

        Raises:
            MeasurementError: the reference rules out every token of the text.
        """
        reference, found = self._predicted()
        with np.errstate(over="ignore"):  # a bundle that rules the text out has an infinite perplexity
            perplexity, reference_perplexity = float(np.exp(found.mean())), float(np.exp(reference.mean()))
        figures = {
            "kl_mean": float(self.kl.mean()),
            "kl_median": _quantile(self.kl, 0.5),
            "kl_p99": _quantile(self.kl, 0.99),
            "kl_max": float(self.kl.max()),
            "same_top_share": float(self.same_top.mean()),
            "perplexity": perplexity,
            "reference_perplexity": reference_perplexity,
            "perplexity_ratio": self.perplexity_ratio(),
        }
        error = standard_error(self.kl, self.block)
        return figures if error is None else figures | {"kl_standard_error": error}

    def _predicted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        possible = ~np.isnan(self.reference_surprise)
        if not possible.any():
            raise MeasurementError("the reference rules out every token of the text", fix="use another --text")
        return self.reference_surprise[possible], self.surprise[possible]


@dataclass
class Comparison:
    """Accumulates windows. Every position counts for KL and same-top, all but a window's last for perplexity.

    Positions whose next token the reference rules out (Phi-3-small's unused ids) don't count for perplexity: it would
    always be infinite. A token that only the bundle rules out makes its perplexity infinite.

    Memory: a few numbers a position, and the logits of a few rows in float64.
    """

    _parts: list[Rows] = field(default_factory=list)

    def add(self, reference: Logits, bundle: Logits, tokens: NDArray[np.int64], *, first: int = 1) -> None:
        """Add one window: logits [T, vocabulary] of both after each of its tokens [T].

        `first`: the position of its first token, where it is a part of a longer sequence.

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
            require_distributions(logits, whose)
        following = np.append(tokens[1:], NO_TOKEN)
        kl, asked, given = (np.empty(len(tokens)) for _ in range(3))
        for start in range(0, len(tokens), _ROWS):
            rows = slice(start, start + _ROWS)
            log_p, p = _log_softmax(reference[rows])
            log_q, _ = _log_softmax(bundle[rows])
            kl[rows] = _divergence(p, log_p, log_q)
            places = np.arange(len(log_p))
            asked[rows], given[rows] = log_p[places, following[rows]], log_q[places, following[rows]]
        counts = np.isfinite(asked) & (following != NO_TOKEN)
        self._parts.append(
            Rows(
                kl=kl,
                same_top=reference.argmax(-1) == bundle.argmax(-1),
                position=np.arange(first, first + len(tokens)),
                following=following,
                block=block_numbers(len(tokens)),
                reference_surprise=np.where(counts, -asked, np.nan),
                surprise=np.where(counts, -given, np.nan),
            )
        )

    @property
    def rows(self) -> Rows:
        """All positions so far; there must be some."""
        return Rows.joined(self._parts)

    def figures(self) -> dict[str, float]:
        """Return the figures of all positions so far: see `Rows.figures`."""
        return self.rows.figures()


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Return log-probabilities, float64, over the last axis. A logit of -inf is a probability of 0."""
    return _log_softmax(logits)[0]


def _log_softmax(logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log-probabilities and probabilities."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    p = np.exp(wide)
    total = p.sum(-1, keepdims=True)
    p /= total
    wide -= np.log(total)
    return wide, p


def _quantile(values: NDArray[np.float64], share: float) -> float:
    """Return a quantile, interpolated as numpy does; between infinities too, where numpy returns NaN."""
    place = share * (len(values) - 1)
    low, high = np.sort(values)[[int(np.floor(place)), int(np.ceil(place))]]
    return float(low if low == high else low + (place - np.floor(place)) * (high - low))


def divergence(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(p‖q) for each row. Infinite where q rules out what p allows; rounding never makes it negative."""
    return _divergence(np.exp(log_p), log_p, log_q)


def _divergence(p: NDArray[np.float64], log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (log_p - log_q), 0.0)
    return np.maximum(terms.sum(-1), 0.0)
