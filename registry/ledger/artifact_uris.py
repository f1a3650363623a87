"""The grammar of the artifact plugin's URIs. Pure: no disk and no bucket is touched before a URI has passed here.

    phipack-STORE/sha256:…                             a bundle
    phipack-STORE/mlflow/MODEL/RUN/artifacts[/PATH]    a run's files

STORE is a store's own URI: `file:///ITS/PATH`, percent-encoded, or `s3://BUCKET/PREFIX`, as it is. MLflow shortens
`file:///` to `file:/`. Everything else is refused: relative parts, encoded ones too, doubled slashes, hosts, queries.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from registry.ledger.tracking import RUNS_FOLDER
from registry.store.protocol import URI_PREFIX, is_digest
from targets.errors import MalformedReferenceError, StoreError
from targets.places import is_plain_path
from targets.references import check_name

_ARTIFACTS = "artifacts"
_RUN = re.compile(r"[0-9a-f]{32}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_FILE = re.compile(r"file:(?://)?/(?!/)")


@dataclass(frozen=True)
class BundleUri:
    """A bundle. `store`: the store's own URI."""

    store: str
    digest: str

    def __str__(self) -> str:
        return f"{URI_PREFIX}{self.store}/{self.digest}"


@dataclass(frozen=True)
class RunFilesUri:
    """A run's files, or those below `path`. `store`: the store's own URI."""

    store: str
    model: str
    run: str
    path: str

    @property
    def place(self) -> str:
        """The `file://` or `s3://` URI of the folder that holds them."""
        return f"{self.store}/{self._below}"

    @property
    def folder(self) -> str:
        """The path of that folder below the root of a folder store."""
        return urllib.parse.unquote(self._below)

    @property
    def _below(self) -> str:
        run = f"{RUNS_FOLDER}/{self.model}/{self.run}/{_ARTIFACTS}"
        return f"{run}/{self.path}" if self.path else run


def parse_artifact_uri(uri: str) -> BundleUri | RunFilesUri:
    """Parse one of the two forms; one trailing slash is allowed. Raises `StoreError`."""
    found = _parse(uri.removesuffix("/"))
    if found is None:
        raise StoreError(
            f"{uri!r} names neither a bundle nor a run's files",
            fix=f"write {URI_PREFIX}STORE/sha256:… or {URI_PREFIX}STORE/{RUNS_FOLDER}/MODEL/RUN/{_ARTIFACTS};"
            " STORE is file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX",
        )
    return found


def _parse(uri: str) -> BundleUri | RunFilesUri | None:
    if not uri.startswith(URI_PREFIX):
        return None
    text = _FILE.sub("file:///", uri.removeprefix(URI_PREFIX), count=1)
    root = "file:///" if text.startswith("file:///") else "s3://"
    path = text.removeprefix(root)
    if not text.startswith(root) or not is_plain_path(path):
        return None
    parts = path.split("/")
    if is_digest(parts[-1]):
        store = _store(root, parts[:-1])
        return BundleUri(store, parts[-1]) if store else None
    # The last match: whoever chooses the folder of an experiment does not get another run's by a longer path.
    for end in range(len(parts), 3, -1):
        folder, model, run, name = parts[end - 4 : end]
        if (folder, name) == (RUNS_FOLDER, _ARTIFACTS) and _RUN.fullmatch(run) and _is_model(model):
            store = _store(root, parts[: end - 4])
            return RunFilesUri(store, model, run, "/".join(parts[end:])) if store else None
    return None


def _store(root: str, parts: list[str]) -> str | None:
    """The store's URI; None unless it is written as stores write their own."""
    path = "/".join(parts)
    if root == "s3://":
        known = bool(parts) and _BUCKET.fullmatch(parts[0]) is not None
    else:
        known = bool(parts) and urllib.parse.quote(urllib.parse.unquote(path)) == path
    return root + path if known else None


def _is_model(name: str) -> bool:
    try:
        check_name("model", name)
    except MalformedReferenceError:
        return False
    return True
