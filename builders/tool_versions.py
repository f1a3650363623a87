"""Which versions of other packages gave what is kept: a part of its name, so that other versions give it again."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable
from functools import cache

WALK_TOOLS = ("torch", "numpy")  # whose versions decide the last bits of a walk over a checkpoint
version = cache(importlib.metadata.version)  # which reads a file; some names are asked for prompt by prompt


def versions_digest(names: Iterable[str]) -> str:
    """Return the first 8 hex digits of a digest of the versions of some packages."""
    return hashlib.sha256(repr([(name, version(name)) for name in names]).encode()).hexdigest()[:8]
