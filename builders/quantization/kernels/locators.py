"""Where numba keeps a kernel's compiled code, and when that code is too old.

numba compares the source of the kernel's own file. A kernel also has parts of other files compiled into it
(`compiled.inlined`), and after an update that changed only those it would go on with the older ones. Here code is too
old where any file of this folder has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator


@contextmanager
def kept_together() -> Iterator[None]:
    """Let numba keep functions that are decorated meanwhile until any file of this folder changes.

    Where `NUMBA_CACHE_LOCATOR_CLASSES` names other places, these are taken as they are.
    """
    before = numba.config.CACHE_LOCATOR_CLASSES
    numba.config.CACHE_LOCATOR_CLASSES = before or ",".join(f"{__name__}.{place.__name__}" for place in _PLACES)
    try:
        yield
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = before


@cache
def _sources() -> bytes:
    """Return the SHA-256 of this folder's files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


class _AllSources:
    def get_source_stamp(self) -> bytes:
        """Return what kept code must have been compiled from."""
        return _sources()


class Named(_AllSources, UserProvidedCacheLocator):  # type: ignore[misc]
    """The folder that `NUMBA_CACHE_DIR` names."""


class BesideSource(_AllSources, InTreeCacheLocator):  # type: ignore[misc]
    """`__pycache__` next to the source."""


class OfUser(_AllSources, UserWideCacheLocator):  # type: ignore[misc]
    """The user's cache folder."""


_PLACES = (Named, BesideSource, OfUser)
