"""Opening the store that a text names."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from registry.store.folder import FolderStore
from registry.store.protocol import URI_PREFIX, Store
from targets.errors import StoreError
from targets.places import store_problem
from targets.progress import Progress, silent

DEFAULT_HOME = Path(".phipack")  # in the project's folder; the command line's is the current one


def open_store(location: str | Path | None = None, home: Path = DEFAULT_HOME, on_progress: Progress = silent) -> Store:
    """Open the store at a folder, `file://` or `s3://` URI; the folder `store` of `home` where none is given.

    Nothing is created and no server is asked. `on_progress` receives a notice of whom a change waits for, and of a
    store that is new. Raises `StoreError`.
    """
    if location is None:
        return FolderStore(home / "store", on_progress)
    if (found := store_problem(str(location))) is not None:
        problem, fix = found
        raise StoreError(problem, fix=fix)
    text = str(location).removeprefix(URI_PREFIX)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return FolderStore(Path(text), on_progress)
    if scheme == "file":
        return FolderStore(Path(urllib.parse.unquote(rest)), on_progress)
    from registry.store.s3 import S3Store

    return S3Store(*rest.partition("/")[::2], on_progress)
