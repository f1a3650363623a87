"""Runs a parser on an input, and judges what comes of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from targets.errors import PhipackError
from tests.fuzz.mutation import mutated
from tests.fuzz.target import Target

SECONDS_LIMIT = 20  # of one input, of at most 64 KiB: a hang, not a measurement


class DefectError(AssertionError):
    """A parser did neither: it did not read its input, and did not refuse it either."""


def try_input(target: Target, raw: bytes, name: str) -> None:
    """Let a parser read an input. Raises `DefectError` for any error but one of ours with a fix."""
    try:
        target.parse(raw)
    except PhipackError as error:
        if not error.fix or not error.problem:
            raise DefectError(f"{name}: no problem or no fix: {error!r}") from error
    except Exception as error:
        raise DefectError(f"{name}: {type(error).__name__}: {error}\n{raw[:2000]!r}") from error


def try_inputs(target: Target, name: str, inputs: int, *, seed: str = "phipack") -> None:
    """Try the corpus, which must be read, and `inputs` damaged copies. Raises `DefectError`, or `TimeoutError`."""
    for raw in target.corpus:
        target.parse(raw)
    for number in range(inputs):
        with limited_time(f"{name} {seed}:{number}"):
            try_input(target, mutated(target.corpus, f"{seed} {name}", number), f"{name} {seed}:{number}")


@contextmanager
def limited_time(name: str) -> Iterator[None]:
    """Raise `TimeoutError` from whatever runs too long."""

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"{name} took more than {SECONDS_LIMIT} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
