"""The store that a case works on: a folder, or its prefix in S3 where PHIPACK_STORE names that."""

from __future__ import annotations

import os
from pathlib import Path

from registry.store.folder import FolderStore
from registry.store.protocol import Store
from registry.store.s3 import S3Store
from registry.store.uris import open_store
from tests.faults.ground import names

STORE = Path(".phipack/store")


def case_store() -> Store:
    """Open the case's store."""
    return open_store(os.environ.get("PHIPACK_STORE", str(STORE)))


def nothing_is_staged(store: Store) -> bool:
    """Whether nothing half-written lies in a store: no staged file or probe, and no unfinished upload."""
    if isinstance(store, FolderStore):
        return names(store.root / "staging") == []
    assert isinstance(store, S3Store)
    return store.sweep(0, dry_run=True) == 0
