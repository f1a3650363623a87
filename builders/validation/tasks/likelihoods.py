"""How likely continuations are, by a session and by the float32 reference: what a harness for tasks asks of a model.

Requests that share their tokens but for the last one (the letters of a question) are computed once. The reference walks
over the layers once for every `_TOKENS` tokens, of sequences of like length, and what it finds is cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from builders.reference import FloatReference, batches, padded
from builders.runtime.distributions import require_distributions
from builders.runtime.session import Session
from builders.validation.compare import log_softmax

_Sized = TypeVar("_Sized", bound=Sized)
_TOKENS = 16_384  # of one walk, padding included


@dataclass(frozen=True)
class Request:
    """A continuation of at least one token after a context of at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def sequence(self) -> tuple[int, ...]:
        """The tokens after which logits are needed, and those before them."""
        return (*self.context, *self.continuation[:-1])


@dataclass(frozen=True)
class Likelihood:
    """`log_probability`: natural logarithm. `is_greedy`: each token of the continuation is the likeliest."""

    log_probability: float
    is_greedy: bool


Likelihoods = Callable[[Sequence[Request]], list[Likelihood]]


def session_likelihoods(session: Session, requests: Sequence[Request]) -> list[Likelihood]:
    """Compute likelihoods by a running bundle, one sequence after the other.

    Raises:
        MeasurementError: the bundle's logits are not a distribution, such as NaN.
    """

    def logits(sequence: tuple[int, ...], needed: int) -> NDArray[np.float32]:
        tokens = np.asarray(sequence, dtype=np.int64)
        return session.prefill(tokens)[None] if needed == 1 else session.score(tokens)[-needed:]

    longest = _needed(requests)
    rows = ((sequence, logits(sequence, needed)) for sequence, needed in longest.items())
    return _judged(requests, rows, "bundle")


def reference_likelihoods(reference: FloatReference, requests: Sequence[Request]) -> list[Likelihood]:
    """Compute likelihoods by the float32 reference; cached by the checkpoint and the tokens. Raises as for a bundle."""
    ends = [(len(each.context), len(each.continuation)) for each in requests]  # the rest may be filled up with zeros
    key = padded([[*end, *each.context, *each.continuation] for end, each in zip(ends, requests, strict=True)])
    known = reference.cached(key, "likelihoods", (len(requests), 2))
    if known is None:
        found = _judged(requests, _walked(reference, _needed(requests)), "reference")
        known = np.asarray([(each.log_probability, each.is_greedy) for each in found], dtype=np.float32)
        reference.keep(key, "likelihoods", known)
    return [Likelihood(float(value), bool(is_greedy)) for value, is_greedy in known]


def _needed(requests: Sequence[Request]) -> dict[tuple[int, ...], int]:
    """Return each sequence that must be computed, with the number of its last positions whose logits are needed."""
    found: dict[tuple[int, ...], int] = {}
    for each in requests:
        found[each.sequence] = max(found.get(each.sequence, 0), len(each.continuation))
    return found


def _walked(
    reference: FloatReference, needed: dict[tuple[int, ...], int]
) -> Iterator[tuple[tuple[int, ...], NDArray[np.float32]]]:
    for some in _batches(sorted(needed, key=len)):
        for places, filled in batches(reference, some):
            for place, rows in zip(places, reference.states(filled), strict=True):
                sequence = some[place]
                yield sequence, reference.logits(rows[len(sequence) - needed[sequence] : len(sequence)])


def _batches(sequences: Sequence[_Sized]) -> Iterator[list[_Sized]]:
    """Yield sequences of rising length in batches of at most `_TOKENS` tokens, padding included."""
    batch: list[_Sized] = []
    for sequence in sequences:
        if batch and len(sequence) * (len(batch) + 1) > _TOKENS:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def padded_shapes(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield number and length of the sequences that the reference reads together, by their rising lengths.

    Of a model without longrope's edge, at which batches are divided.
    """
    for some in _batches([range(length) for length in lengths]):
        yield len(some), len(some[-1])


def _judged(
    requests: Sequence[Request], rows: Iterator[tuple[tuple[int, ...], NDArray[np.float32]]], whose: str
) -> list[Likelihood]:
    """Return the likelihood of each request from the logits [needed, vocabulary] of each sequence's last positions.

    Those that are NaN would make the first choice the likeliest: right wherever it is the answer.
    """
    asked: dict[tuple[int, ...], list[int]] = {}
    for number, each in enumerate(requests):
        asked.setdefault(each.sequence, []).append(number)
    found: dict[int, Likelihood] = {}
    for sequence, logits in rows:
        require_distributions(logits, whose, first=len(sequence) - len(logits))
        log_p = log_softmax(logits)
        for number in asked[sequence]:
            tokens = np.asarray(requests[number].continuation)
            own = log_p[-len(tokens) :]
            likely = own[np.arange(len(tokens)), tokens]
            found[number] = Likelihood(float(likely.sum()), bool((own.argmax(-1) == tokens).all()))
    return [found[number] for number in range(len(requests))]
