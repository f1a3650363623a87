"""The digest of phipack's own code: what was made or measured by other code is made or measured again."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources


@cache
def own_code_digest() -> str:
    """Return a digest of the code that builds and measures: a changed quantizer needs no new version number."""
    digest = hashlib.sha256()
    for package in ("builders", "targets"):
        root = resources.files(package)
        with resources.as_file(root) as folder:
            for path in sorted(folder.rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
