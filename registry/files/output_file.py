"""A file that a user names for a result: looked at before the work, written at its end, whole or not at all.

A pipe would keep a command waiting for a reader, after hours of work perhaps, and a device may swallow what it is sent:
only regular files are written, and what a link leads to where its owner may be trusted.
"""

from __future__ import annotations

import os
from pathlib import Path

from registry.files.atomic import unfinished_file, write_atomically
from registry.files.owned import NotOwnedError, kind_of, open_or_create, require_not_planted
from registry.files.staging import disk_errors

_NOT_FILES = ("/dev", "/proc")  # where what looks like a file is another process's, or this one's own output


def check_output_file(path: Path) -> None:
    """Raise `BuildError` where `path` can't be written later, or is no regular file. A new file is made and removed."""
    with disk_errors(path):
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_file(place.parent, place.name):
            pass


def write_output_file(path: Path, content: bytes) -> None:
    """Write a file that `check_output_file` has looked at. Raises `BuildError`."""
    with disk_errors(path):
        write_atomically(_place(path), content)


def open_to_append(path: Path) -> int:
    """Open a file to append to, and create it where it is missing. Raises `OSError`."""
    return open_or_create(_place(path), 0o666, os.O_WRONLY | os.O_APPEND, own=False)


def _place(path: Path) -> Path:
    """Return where the file is, links followed. Raises `NotOwnedError` where it is no regular file, or planted."""
    require_not_planted(path)
    place = Path(os.path.realpath(path))  # pathlib's resolve raises `RuntimeError` for a link to itself
    above = Path(os.path.realpath(path.absolute().parent))
    if str(above) in _NOT_FILES or above.is_relative_to("/proc"):
        raise NotOwnedError(f"{path} is no file of its own", "name a file; results are printed as well: see --json")
    if os.path.lexists(place) and not place.is_file():
        kind = kind_of(place.lstat())
        raise NotOwnedError(f"{path} is {kind}, not a regular file", "name a file that is new or may be replaced")
    return place
