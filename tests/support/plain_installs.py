"""Installations of the sample client."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.clients.plain_client import Device, Wish, install
from tests.clients.plain_trust import Trust

GIB = 1 << 30


IPHONE = Device("iPhone15,4", "Apple A16", "iOS", "18.1", 6 * GIB)


class Plain:
    """An installation of the sample client."""

    def __init__(self, folder: Path, url: str, root: Path) -> None:
        self.trust = Trust(url, folder / "trust", root.read_bytes())
        self.home = folder / "bundles"

    def fetch(self, wish: Wish | None = None, device: Device = IPHONE, name: str = "a phone") -> tuple[Path, str]:
        return install(self.trust, wish or Wish("phi"), device, name, self.home)


def noise(count: int) -> bytes:
    """Bytes that no compression shortens: `count` times 32."""
    return b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(count))
