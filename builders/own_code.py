"""The digest of phipack's own code: what was made or measured by other code is made or measured again.

Texts and prompts that come with the builders decide what is measured, so they count as code. Data of targets does not:
a new device changes no bundle.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

_COUNTED = {"builders": (".py", ".json", ".txt"), "targets": (".py",)}


@cache
def own_code_digest() -> str:
    """Return a digest of the code that builds and measures: a changed quantizer needs no new version number."""
    digest = hashlib.sha256()
    for package, suffixes in _COUNTED.items():
        root = resources.files(package)
        with resources.as_file(root) as folder:
            for path in sorted(path for path in folder.rglob("*") if path.suffix in suffixes):
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
