"""TUF's metadata of a catalog: as it is served, damaged, and damaged by somebody who has its keys."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface

from registry.catalog.client import refreshed_targets
from registry.catalog.signing import KeyFolder, Role, create_keys
from targets.errors import FetchError
from tests.clients.plain_trust import canonical
from tests.fuzz.target import Target, file

_EXPIRES = datetime(2100, 1, 1, tzinfo=UTC)


class _Served(FetcherInterface):
    """Metadata by name; what is not there is a 404."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        content = self.files.get(url.rpartition("/")[2])
        if content is None:
            raise DownloadHTTPError(url, 404)
        yield content


def root_target(folder: Path) -> Target:
    """The root that a user names. What comes after it is not there."""
    keys = create_keys(folder / "keys", {})
    path = keys.path / "1.root.json"
    metadata = _folders(folder)

    def read(_: Path) -> object:
        try:
            return refreshed_targets("https://example.org", _Served({}), next(metadata), path, wait=lambda _: True)
        except FetchError as error:
            if "is not a catalog" not in error.problem:  # the root was read: next, a timestamp is asked for
                raise
            return None

    return Target((path.read_bytes(),), file(path, read), 60)


def role_target(role: Role) -> Callable[[Path], Target]:
    """Return the target of what is served for a role: nothing else says its length or digest."""

    def target(folder: Path) -> Target:
        keys = create_keys(folder / "keys", {})
        served = _served(keys)
        name = "timestamp.json" if role == "timestamp" else f"1.{role}.json"
        metadata = _folders(folder)

        def refresh(raw: bytes) -> None:
            with suppress(FetchError):
                _files_of(keys, {**served, name: raw}, next(metadata))

        assert _files_of(keys, served, next(metadata))

        def parse(raw: bytes) -> None:
            refresh(raw)
            if (again := _signed_again(keys, role, raw)) is not None:
                refresh(again)

        return Target((served[name],), parse, 60)

    return target


def _files_of(keys: KeyFolder, served: dict[str, bytes], metadata: Path) -> Mapping[str, TargetFile]:
    """Return the documents of what is served."""
    root = keys.path / "1.root.json"
    return refreshed_targets("https://example.org", _Served(served), metadata, root, wait=lambda _: True)


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a place for each input: what was trusted once would be seen by the next."""
    return (folder / "metadata" / str(number) for number in itertools.count())


def _served(keys: KeyFolder) -> dict[str, bytes]:
    documents = {"phi/channels/production.json": TargetFile(3, {"sha256": "0" * 64}, "phi/channels/production.json")}
    roles: dict[Role, Any] = {
        "targets": Targets(expires=_EXPIRES, targets=documents),
        "snapshot": Snapshot(expires=_EXPIRES, meta={"targets.json": MetaFile(1)}),
        "timestamp": Timestamp(expires=_EXPIRES, snapshot_meta=MetaFile(1)),
    }
    signed = {role: keys.sign(role, Metadata(content)) for role, content in roles.items()}
    return {
        "timestamp.json": signed["timestamp"],
        "1.snapshot.json": signed["snapshot"],
        "1.targets.json": signed["targets"],
    }


def _signed_again(keys: KeyFolder, role: Role, raw: bytes) -> bytes | None:
    """Sign what an input says; None where it is nothing that can be signed."""
    try:
        content = json.loads(raw)["signed"]
        data = canonical(content)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    root = keys.root.signed
    (name,) = root.roles[role].keyids
    private = keys.path / keys.keys.signers[name].removeprefix("file2:")
    signature = Signer.from_priv_key_uri(f"file2:{private}", root.keys[name]).sign(data)
    return json.dumps({"signatures": [signature.to_dict()], "signed": content}).encode()
