"""Folders for the length of a block, in a place that fills up or is shared.

Removal never fails a command whose result is whole. What a killed process left is removed by the next one that makes a
folder of the same kind in the same place:

    PREFIX-HOST-PID-RANDOM/
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.files.staging import abandoned, disk_errors, is_own_folder, owner_mark
from targets.errors import BuildError, PhipackError


@contextmanager
def temporary_folder(
    prefix: str, parent: Path | None = None, *, kind: type[PhipackError] = BuildError
) -> Iterator[Path]:
    """Yield an empty folder that its owner alone can use. `parent`: by default where the system keeps temporary files.

    Raises:
        PhipackError: one of `kind`: it can't be created. What the block raises is its own.
    """
    place = parent or system_folder(kind)
    with disk_errors(place, kind):
        place.mkdir(parents=True, exist_ok=True)
        remove_left(prefix, place)
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-{owner_mark()}", dir=place))  # noqa: TID251 - the one place
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def system_folder(kind: type[PhipackError] = BuildError) -> Path:
    """Return where the system keeps temporary files. Raises `kind` where `TMPDIR` names no folder.

    Python passes over a `TMPDIR` that it can't write into, as on a full disk, and takes /tmp without a word: whoever
    has set it has no room there.
    """
    named = os.environ.get("TMPDIR")
    if not named:
        return Path(tempfile.gettempdir())
    if not Path(named).is_dir():
        raise kind(f"TMPDIR names {named}, which is no folder", fix=f"create it (mkdir -p {named}), or unset TMPDIR")
    return Path(named)


def remove_left(prefix: str, place: Path) -> None:
    """Remove the folders of this kind that killed processes left in a place."""
    for left in left_in(place, f"{prefix}-"):
        if is_own_folder(left):
            shutil.rmtree(left, ignore_errors=True)


def left_in(place: Path, prefix: str) -> Iterator[Path]:
    """Yield what processes of this host that are gone have left, called `prefix`, then `owner_mark()`, then anything.

    Anybody can make such a name in a shared folder: whoever removes it looks at the owner first.
    """
    return (left for left in place.glob(f"{prefix}*") if abandoned(left.name.removeprefix(prefix)))
