"""Fixtures of the registry's room."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.bundle import Bundle
from registry.store import FolderStore
from tests.registry.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A small bundle of three files, one of them in a folder."""
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "store")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
