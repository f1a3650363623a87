"""Folders that appear whole or not at all: write to a sibling, verify, rename.

A staging folder is a sibling of its destination (the same file system, so the last step is one rename) and is removed
on any error, interrupts included. What a killed process left is removed by the next one with the same destination.

    .phipack-staging-HOST-PID-RANDOM-new-NAME/        what is being made for NAME
    .phipack-staging-HOST-PID-RANDOM-old-NAME/NAME    what was there, for the moment between two renames
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.files.owned import NotOwnedError, kind_of
from targets.errors import BuildError, PhipackError
from targets.this_user import home_folder

STAGING_MARK = ".phipack-staging-"
_OWNER = re.compile(r"([0-9a-f]{8})-([0-9]+)-")


@contextmanager
def staged_folder(destination: Path, *, replace: bool = False, mode: int = 0o755) -> Iterator[Path]:
    """Yield an empty folder that becomes `destination` when the block succeeds, and is removed when it doesn't.

    `mode`: its permissions then; until then only its owner can open it.

    Raises:
        BuildError: the destination exists, at the start or at the end (unless `replace`), or is no folder; or its
            parent can't be written, or the disk is full.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - a link at the destination is not followed
    with disk_errors(destination):
        sweep(destination)  # first: it may put back what a killed process had moved away
        occupied = _occupied(destination)
    if occupied:
        if not replace:
            raise _exists(destination)
        _refuse_precious(destination)
    with disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = _make_sibling(destination, "new")
    try:
        with disk_errors(destination):
            yield staging
            staging.chmod(mode)
            _swap_in(staging, destination, replace=replace)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def disk_errors(place: Path, kind: type[PhipackError] = BuildError) -> Iterator[None]:
    """Turn the operating system's errors while writing to `place` into one of `kind` that says what to do."""
    try:
        yield
    except PhipackError:
        raise
    except NotOwnedError as error:
        raise kind(error.problem, fix=error.fix) from error
    except OSError as error:
        # numpy's tofile reports a short write without an errno: on a regular file that is a full disk.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None):
            raise kind(
                f"no space left while writing {place}",
                fix="free space, or name a folder on another disk",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise kind(
                f"{place} can't be written: {error.strerror}",
                fix="name a folder that you may write to, or run the command in one",
            ) from error
        raise kind(f"writing {place} failed: {error}", fix="check the disk and the path, then try again") from error


def free_bytes(place: Path) -> int:
    """Return the free bytes of the disk that a path is on, or will be on once it is created."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def owner_mark() -> str:
    """Return what names this process in a file's name: `HOST-PID-`. `abandoned` reads it."""
    return f"{_host()}-{os.getpid()}-"


def abandoned(mark: str) -> bool:
    """Return True where `mark` starts with the `owner_mark` of a process of this host that is gone."""
    owner = _OWNER.match(mark)
    return owner is not None and owner[1] == _host() and not _alive(int(owner[2]))


def sweep(destination: Path) -> None:
    """Remove what dead processes left for this destination; put back what was there, if one died between renames."""
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - a link at the destination is not followed
    ending = re.compile(r"[a-z0-9_]{8}-(new|old)-" + re.escape(destination.name))
    for left in destination.parent.glob(STAGING_MARK + "*"):
        mark = left.name.removeprefix(STAGING_MARK)
        owner = _OWNER.match(mark)
        if owner is None or not abandoned(mark):
            continue
        kind = ending.fullmatch(mark, owner.end())
        if kind is None or not is_own_folder(left):
            continue
        old = left / destination.name
        if kind[1] == "old" and old.exists() and not destination.exists():
            old.rename(destination)
        shutil.rmtree(left, ignore_errors=True)


def is_own_folder(path: Path) -> bool:
    """Whether this user made it: in a folder that others may write, somebody may have put one there to be put back."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _occupied(destination: Path) -> bool:
    """Whether something is there that would be replaced. Raises `BuildError` where it is no folder, nor a link."""
    try:
        status = destination.lstat()
        if stat.S_ISDIR(status.st_mode):
            return any(destination.iterdir())
    except FileNotFoundError:  # also when another process moves it away in between
        return False
    if not stat.S_ISLNK(status.st_mode):
        raise BuildError(f"{destination} is {kind_of(status)}, not a folder", fix="name another folder")
    return True


def _exists(destination: Path) -> BuildError:
    return BuildError(
        f"{destination} exists already", fix="name another folder, or add --replace where the command offers it"
    )


def _refuse_precious(destination: Path) -> None:
    """Refuse a slip such as `--replace -o ~`: neither the home folder nor the current one is replaced."""
    for kept in filter(None, (home_folder(), Path.cwd())):
        if kept.resolve().is_relative_to(destination.resolve()):
            raise BuildError(f"{destination} contains {kept} and is not replaced", fix="name another folder")


def _make_sibling(destination: Path, kind: str) -> Path:
    sibling = tempfile.mkdtemp(  # noqa: TID251 - with the mark that `sweep` looks for
        prefix=STAGING_MARK + owner_mark(), suffix=f"-{kind}-{destination.name}", dir=destination.parent
    )
    return Path(sibling)


def _swap_in(staging: Path, destination: Path, *, replace: bool) -> None:
    """Put the folder in its place: what is there is moved away first, also what another process put there meanwhile.

    Raises `BuildError` where something is there that may not be replaced. On an error or an interrupt, at whichever
    step, the new folder is there, or what was there is there again. Where that fails too, it stays where it was moved
    to, and `sweep` puts it back.
    """
    asides: list[Path] = []
    try:
        while not _renamed(staging, destination):
            if _occupied(destination) and not replace:
                raise _exists(destination)  # noqa: TRY301 - what was moved away is put back for it, too
            asides.append(_make_sibling(destination, "old"))
            with suppress(FileNotFoundError):  # another process has moved it away
                destination.rename(asides[-1] / destination.name)
    except BaseException:
        _put_back(asides, destination)
        raise
    for aside in asides:
        shutil.rmtree(aside, ignore_errors=True)


def _put_back(asides: Sequence[Path], destination: Path) -> None:
    """Put back what was moved away last, where nothing is in its place, and remove the rest."""
    for aside in reversed(asides):
        if os.path.lexists(destination):
            break
        with suppress(FileNotFoundError):
            (aside / destination.name).rename(destination)
    for aside in asides:
        shutil.rmtree(aside, ignore_errors=True)


def _renamed(folder: Path, destination: Path) -> bool:
    """Rename it, also to where an empty folder is; False where something else is there."""
    try:
        folder.rename(destination)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


@functools.cache
def _host() -> str:
    """Return eight hex digits for this machine: on a shared disk, another machine's process may own a folder."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
