"""The web server of the walks, a process of its own that ends with the one that started it."""

from __future__ import annotations

import os
from pathlib import Path

from devtools.servers import RangeHandler, serving
from tests.faults.pieces import NEW, write_pieces


def start_site(folder: Path) -> str:
    """Serve a folder with ranges, the new bundle in it as `/new`; give the URL."""
    write_pieces(folder / "new", NEW)
    said, ended = os.pipe(), os.pipe()
    if not os.fork():
        os.close(ended[1])
        with serving(folder, kind=RangeHandler) as url:
            os.write(said[1], url.encode())
            os.read(ended[0], 1)  # until the starter is gone
        os._exit(0)
    os.close(ended[0])
    os.close(said[1])
    return os.read(said[0], 100).decode()
