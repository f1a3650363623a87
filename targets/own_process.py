"""Imports that a process of phipack's own does without.

coremltools imports every library that it could convert from, sklearn and torch among them, if it is installed. That
takes seconds, and phipack uses none of it. `phipack` as a program, and the processes that it starts, keep it from that.
A program that imports phipack may need them itself: there, everything is imported as usual.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder

_own = threading.Event()


def is_own_process() -> None:
    """Say that this process runs nothing but phipack."""
    _own.set()


@contextmanager
def importing_without(*packages: str) -> Iterator[None]:
    """Refuse to import these packages in this thread, as if they were not installed, if the process is phipack's own.

    A package that is imported already, here or by another thread, stays.
    """
    if not _own.is_set():
        yield
        return
    refusal = _Refusal(packages)
    sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        sys.meta_path.remove(refusal)


class _Refusal(MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages, self._thread = frozenset(packages), threading.get_ident()

    def find_spec(self, name: str, *_: object) -> None:
        """Find nothing, or refuse. Raises `ModuleNotFoundError` for the packages."""
        if name in self._packages and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"phipack does without {name} here", name=name)
