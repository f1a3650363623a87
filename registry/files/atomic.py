"""Files that appear whole or not at all: written next to their place under another name, then one rename.

    FOLDER/.NAME.HOST-PID-RANDOM.new    what is being written for FOLDER/NAME

Whatever fails, interrupts included, the unfinished file is removed. What a killed process left behind is removed by
`remove_unfinished`. For folders, see `staging.py`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.files.owned import create_file
from registry.files.staging import abandoned, owner_mark

UNFINISHED_SUFFIX = ".new"


@dataclass(frozen=True)
class UnfinishedFile:
    """A file that is being written: `out` takes its content, `move_to` puts it in place."""

    path: Path
    out: BinaryIO

    def flush(self) -> None:
        """Bring the content to the disk, so that the rename does not take long. Raises `OSError`."""
        self.out.flush()
        os.fsync(self.out.fileno())

    def move_to(self, place: Path, *, replace: bool = True) -> bool:
        """Put the file at `place`, in a folder that exists; False where `replace` is off and a file is there.

        The content is on the disk before the name is, and the name when this returns. Raises `OSError`.
        """
        self.flush()
        if replace:
            self.path.replace(place)
        else:
            try:
                os.link(self.path, place)  # fails where the name exists, also when two processes get here at once
            except FileExistsError:
                return False
        _sync_folder(place.parent)
        return True


@contextmanager
def unfinished_file(folder: Path, name: str = "", mode: int = 0o644) -> Iterator[UnfinishedFile]:
    """Yield a new file in `folder`, for what will be called `name`; it is removed unless `move_to` renamed it.

    `folder` must be on the file system of the final place. Raises `OSError`.
    """
    hidden = f".{name}." if name else ""
    path = folder / f"{hidden}{owner_mark()}{secrets.token_hex(4)}{UNFINISHED_SUFFIX}"
    handle = create_file(path)
    try:
        with os.fdopen(handle, "wb") as out:
            os.fchmod(handle, mode)  # whatever the umask says
            yield UnfinishedFile(path, out)
    finally:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644, replace: bool = True) -> bool:
    """Write a whole file at `path`; False, and nothing changed, where `replace` is off and a file is there.

    Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_file(path.parent, path.name, mode) as file:
        file.out.write(content)
        return file.move_to(path, replace=replace)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes of this machine that are gone were writing in `folder`. Raises `OSError`."""
    for path in folder.glob("*"):
        if is_abandoned(path):
            path.unlink(missing_ok=True)


def is_abandoned(path: Path) -> bool:
    """True for the unfinished file of a process of this machine that is gone."""
    stem = path.name.removesuffix(UNFINISHED_SUFFIX)
    return stem != path.name and abandoned(stem.rpartition(".")[2])


def _sync_folder(folder: Path) -> None:
    """Make a new name in the folder outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
