"""The digest of phipack's own code: what was made or measured by other code is made or measured again.

Texts and prompts that come with the builders decide what is measured, so they count as code. So does what writes a
manifest: it is a part of the bundle, with what its files need of runtimes by `table.toml`. Other data of targets does
not: a new device changes no bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

_COUNTED = {
    "builders": (".py", ".json", ".txt"),
    "registry.bundle": (".py",),
    "registry.formats": (".py",),
    "targets": (".py",),
    "targets.runtimes": (".toml",),
}


@cache
def own_code_digest() -> str:
    """Return a digest of the code that builds and measures: a changed quantizer needs no new version number."""
    digest = hashlib.sha256()
    for name, path in counted_files():
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def counted_files() -> Iterator[tuple[str, Path]]:
    """Yield the files that count, with names that are the same on every machine."""
    for package, suffixes in _COUNTED.items():
        with resources.as_file(resources.files(package)) as folder:
            for path in sorted(path for path in folder.rglob("*") if path.suffix in suffixes):
                yield f"{package}/{path.relative_to(folder).as_posix()}", path
