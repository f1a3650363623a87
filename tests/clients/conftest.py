"""Fixtures of the sample client: a publisher, its catalog's URL, and the client installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.catalogs import Publisher
from devtools.servers import RangeHandler, serving


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has keys, and nothing published."""
    publisher = Publisher(tmp_path / "publisher")
    publisher.place.root.mkdir(parents=True)
    return publisher


@pytest.fixture
def asked() -> list[str]:
    """The paths that were asked for."""
    return []


@pytest.fixture
def url(publisher: Publisher, asked: list[str]) -> Iterator[str]:
    """The catalog's URL, on a server with ranges."""
    with serving(publisher.place.root, asked=asked, kind=RangeHandler) as url:
        yield url
