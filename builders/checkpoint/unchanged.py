"""That the files of a checkpoint stay as they were opened: a training run may save its next step over them.

A digest names what was read. Files that change between the two would make a bundle, its figures or the reference's
states those of another checkpoint, under the name of this one. So whoever records what was read looks at the files
again first: sizes, times and inodes, which is quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from targets.errors import CheckpointError

# Of each file its size, time of change in nanoseconds and inode; None where there is none.
FileStates = Mapping[Path, tuple[int, int, int] | None]


def states_of(files: Iterable[Path]) -> FileStates:
    """Return the state of each file as of now."""
    return {file: _state_of(file) for file in files}


def require_same(seen: FileStates, now: FileStates) -> None:
    """Raise `CheckpointError` naming the first file that has changed, is gone or was added."""
    for file in sorted({*seen, *now}):
        if seen.get(file) != now.get(file):
            raise CheckpointError(
                f"{file} was changed while the checkpoint was read: what was read may be of two checkpoints",
                fix="copy the checkpoint to a folder that nothing writes to, such as a training run, and run the same "
                "command again",
            )


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
