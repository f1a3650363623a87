"""Write beside, verify, rename: nothing half-made is ever seen under its final name.

A staging folder lies beside the place it is meant for (the same file system, so the last step is one rename) and is removed on any
error, interrupt included. A staging folder that a killed process left behind is swept by the next one that wants the same
place.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from targets.errors import BuildError, PhipackError

STAGING_MARK = ".phipack-staging-"


@contextmanager
def staged_folder(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder that becomes `destination` when the block ends well, and is removed when it doesn't.

    Raises:
        BuildError: the destination exists (unless `replace`), or its parent can't be written, or the disk is full.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - a link at the destination is not followed
    if destination.exists() and not replace and (destination.is_file() or any(destination.iterdir())):
        raise BuildError(f"{destination} exists already", fix="remove it, or name another folder")
    with disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _sweep(destination)
        staging = Path(
            tempfile.mkdtemp(prefix=f"{STAGING_MARK}{destination.name}-{os.getpid()}-", dir=destination.parent)
        )
    try:
        with disk_errors(destination):
            yield staging
            staging.chmod(0o755)
            _swap_in(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing to `place` into a `BuildError` that says what to do."""
    try:
        yield
    except PhipackError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildError(
                f"no space left while writing {place}",
                fix="free space, or name a folder on another disk; nothing was left behind",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BuildError(
                f"{place} can't be written: {error.strerror}", fix="name a folder that you may write to"
            ) from error
        raise BuildError(f"writing {place} failed: {error}", fix="see the system's message above") from error


def _swap_in(staging: Path, destination: Path) -> None:
    if not destination.exists():
        staging.rename(destination)
        return
    aside = Path(
        tempfile.mkdtemp(prefix=f"{STAGING_MARK}{destination.name}-{os.getpid()}-old-", dir=destination.parent)
    )
    old = aside / "old"
    destination.rename(old)
    try:
        staging.rename(destination)
    except OSError:
        old.rename(destination)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(destination: Path) -> None:
    """Remove staging folders of dead processes for the same destination."""
    prefix = f"{STAGING_MARK}{destination.name}-"
    for left in destination.parent.glob(prefix + "*"):
        owner = left.name.removeprefix(prefix).split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
