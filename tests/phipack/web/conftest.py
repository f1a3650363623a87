"""A registry with a catalog, and the pages over it, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import phipack
from phipack.web.app import create_pages
from tests.support.catalog_pages import make_registry
from tests.support.served_app import served_app


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> phipack.Registry:
    """What `make_registry` makes: don't change it."""
    return make_registry(tmp_path_factory.mktemp("pages") / ".phipack", migrated_database)


@pytest.fixture(scope="session")
def client(shown: phipack.Registry) -> TestClient:
    """The pages over it."""
    return TestClient(create_pages(shown), base_url="http://localhost")


@pytest.fixture(scope="module")
def url(shown: phipack.Registry) -> Iterator[str]:
    """The same, for a browser."""
    with served_app(create_pages(shown)) as found:
        yield found
