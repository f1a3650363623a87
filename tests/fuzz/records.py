"""What a registry, a catalog and a folder of keys keep."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import TargetFile

from registry.catalog.choice import Query, resolve
from registry.catalog.client import install_id
from registry.catalog.documents import Documents
from registry.catalog.signing import create_keys, open_keys
from registry.ledger.channel_moves import CELL_TAG, OVERRODE_TAG, PROMOTERS_TAG, UNMOVED_TAG, move_from_tags
from registry.ledger.lease import _who
from registry.ledger.release_plan import promoters_of
from registry.ledger.versions import version_from_tags
from registry.store.actions import ActionRecord, read_action, write_action
from registry.store.folder import FolderStore
from targets.errors import PhipackError
from targets.references import Reference
from targets.selection import Device
from tests.fuzz.target import Target, as_text, file

_VERSION_TAGS = {
    f"phipack.{name}": "x"
    for name in ("model", "cell", "checkpoint", "recipe", "target", "digest", "gates", "evidence", "run", "store")
} | {"phipack.release": "1.0.0"}
_MOVE_TAGS = {"phipack.move": "promotion", "phipack.channel": "production", "phipack.who": "me", "phipack.why": "x"}
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def tags_target(_: Path) -> Target:
    version = {"release": "1.0.0", "number": 1, "digest": "sha256:0", "registered_model": "phi.a"}
    values: list[Any] = [
        {"before": version, "after": None, "evidence": "sha256:1"},
        version,
        ["alice", "bob"],
        [{"cell": "a", "problem": "slow"}, "b: wrong"],
        {"release": "1.0.0", "promoters": ["alice"]},
        {"checkpoint": "sha256:0"},
        {"who": "me", "beat": 1},
    ]

    def parse(raw: bytes) -> None:
        tag = as_text(raw)
        _who(tag)
        for name in ("phipack.inputs", "phipack.release", "phipack.digest"):
            with suppress(PhipackError):
                version_from_tags("phi.a", 1, _VERSION_TAGS | {name: tag}, created_ms=0, channels=())
        for name in (f"{CELL_TAG}.a", f"{UNMOVED_TAG}.a", PROMOTERS_TAG, OVERRODE_TAG, "phipack.move"):
            with suppress(PhipackError):
                str(move_from_tags(_MOVE_TAGS | {name: tag}, run_id="r", model="phi", when=_NOW, state="done").title)
        with suppress(PhipackError):
            promoters_of({"phipack.promoters.production": tag}, "production")

    return Target(tuple(json.dumps(value).encode() for value in values), parse, 250)


_DEVICE = Device(os="iOS", os_version="18.1", ram_bytes=8 << 30)


class _Given(Documents):
    """A catalog whose one document is given."""

    raw: bytes = b""

    def _read(self, path: str, file: TargetFile) -> bytes:
        return self.raw

    def _malformed(self, path: str, why: str) -> PhipackError:
        return PhipackError(f"{path}: {why}", fix="publish again")


def documents_target(_: Path) -> Target:
    digest = "sha256:" + "0" * 64
    device = {"title": "iPhone 15", "soc": "A16", "os": "iOS", "minimum_os": "18.0", "identifiers": ["iPhone15,4"]}
    cell = {"target": "iphone-15", "recipe": "r", "format": "gguf", "bundle": digest, "manifest_bytes": 5, "bytes": 9}
    release = {
        "schema": "phipack.release/1",
        "model": "phi",
        "release": "1.0.0",
        "devices": {"iphone-15": device | {"ram_bytes": 6 << 30}},
        "cells": {"iphone-15": cell | {"deltas": [{"from": digest, "blob": digest, "bytes": 3}]}},
    }
    stages = [{"release": "1.0.0", "basis_points": 10_000}]
    channel = {"schema": "phipack.channel/1", "model": "phi", "channel": "production", "cells": {"iphone-15": stages}}

    file = TargetFile(1, {"sha256": "0" * 64}, "phi")

    def parse(raw: bytes) -> None:
        for path in ("phi/releases/1.0.0.json", "phi/channels/production.json"):
            documents = _Given({path: file})
            documents.raw = raw
            with suppress(PhipackError):
                resolve(documents, Query(Reference.parse("phi:1.0.0" if "releases" in path else "phi"), _DEVICE))
            with suppress(PhipackError):
                str(documents.release("phi", "1.0.0"))

    return Target((json.dumps(release).encode(), json.dumps(channel).encode()), parse, 250)


def keys_target(folder: Path) -> Target:
    create_keys(folder / "keys", {})
    path = folder / "keys" / "keys.json"
    return Target((path.read_bytes(),), file(path, lambda _: open_keys(folder / "keys")), 150)


def install_id_target(folder: Path) -> Target:
    return Target((b"kiosk 7\n",), file(folder / "install-id", lambda _: install_id(folder)), 200)


def record_target(folder: Path) -> Target:
    store = FolderStore(folder)
    record = ActionRecord(schema="phipack.action/1", action="checkpoint", key="0" * 32, checkpoint="sha256:" + "0" * 64)
    write_action(store, record)
    path = folder / record.document_name
    return Target((path.read_bytes(),), file(path, lambda _: read_action(store, "checkpoint", "0" * 32)), 200)
