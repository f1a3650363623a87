"""Fixtures of downloads."""

from __future__ import annotations

import pytest

from registry.bundle.folder import Bundle
from tests.support.downloads import TENSORS, make_chunked


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """45 MB in chunks. Don't change it."""
    return make_chunked(tmp_path_factory.mktemp("large") / "bundle", TENSORS)
