"""A lease on files, for processes of a test: here and in another process, whose clock is off."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.ledger.lease import Timing

TIMING = Timing(beat_seconds=0.1, fresh_seconds=0.8, stale_seconds=1.5, wait_seconds=1.0)


@dataclass
class Files:
    """A lease's place in a folder, for several processes."""

    folder: Path

    def read(self) -> Mapping[str, str]:
        found = {}
        for path in self.folder.glob("[!.]*"):
            try:
                found[path.name] = path.read_text()
            except FileNotFoundError:
                continue
        return found

    def write(self, name: str, value: str) -> None:
        beside = self.folder / f".{os.getpid()}-{name}"
        beside.write_text(value)
        beside.replace(self.folder / name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
