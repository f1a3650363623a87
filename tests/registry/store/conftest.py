"""A store of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.store.folder import FolderStore
from registry.store.protocol import Store
from registry.store.s3 import S3Store


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    store: S3Store = request.getfixturevalue("s3_store")
    return store
