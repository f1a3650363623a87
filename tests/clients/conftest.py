"""Fixtures of the sample client: a publisher, its catalog's URL, and the client installed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.plain_client import Device, Wish, install
from tests.clients.plain_trust import Trust
from tests.support.catalogs import Publisher
from tests.support.servers import RangeHandler, serving

GIB = 1 << 30
IPHONE = Device("iPhone15,4", "Apple A16", "iOS", "18.1", 6 * GIB)


class Plain:
    """An installation of the sample client."""

    def __init__(self, folder: Path, url: str, root: Path) -> None:
        self.trust = Trust(url, folder / "trust", root.read_bytes())
        self.home = folder / "bundles"

    def fetch(self, wish: Wish | None = None, device: Device = IPHONE, name: str = "a phone") -> tuple[Path, str]:
        return install(self.trust, wish or Wish("phi"), device, name, self.home)


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


def noise(count: int) -> bytes:
    """Bytes that no compression shortens: `count` times 32."""
    return b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(count))
