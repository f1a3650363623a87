"""Files and folders that nobody else can have put there: created exclusively, or looked at before they are used.

In a folder that others may write, whoever knows a name can be there first: with a link that leads elsewhere, with a
file that they keep open and change later, with a pipe that never answers. So what is new is created exclusively, and
what is found counts only where it is of the right kind, has no second name, and belongs to this user where nobody else
has any business with it.

Against who may rename in the folder itself (writable by others, and not sticky as /tmp is) nothing here helps.

Some file systems keep no permissions: on Windows' disks in WSL, on CIFS and exFAT every file shows the same mode, often
0777, whatever it was given. There the mode says nothing, and no chmod can change it; who may write is decided where the
disk is mounted. So a mode counts only where the file system keeps modes, which a new folder shows (`keeps_modes`).
"""

from __future__ import annotations

import os
import pwd
import secrets
import stat
from contextlib import suppress
from pathlib import Path

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a file",
}


class NotOwnedError(OSError):
    """What is found is not what it should be: another user's, open to others, a link, or no regular file.

    `disk_errors` makes one of phipack's own errors of it.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.problem, self.fix = problem, fix


def create_file(path: Path, mode: int = 0o600, flags: int = os.O_WRONLY) -> int:
    """Create a file and return it open. Raises `FileExistsError` where anything has that name, a link included."""
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def open_found(path: Path, flags: int, *, own: bool = True) -> int:
    """Open a file that is there: a regular one with no other name, and this user's unless `own` is off.

    Raises:
        NotOwnedError: it is something else. FileNotFoundError: it is not there.
    """
    _require_plain(path, path.lstat(), own=own)  # first, as opening a device may do something
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_plain(path, os.fstat(handle), own=own)
    except BaseException:
        os.close(handle)
        raise
    return handle


def open_or_create(path: Path, mode: int, flags: int = os.O_RDWR, *, own: bool = True) -> int:
    """Open the file at `path` as `open_found` does, or create it with permissions `mode` less the umask's."""
    while True:
        try:
            return create_file(path, mode, flags)
        except FileExistsError:
            pass
        try:
            return open_found(path, flags, own=own)
        except FileNotFoundError:
            continue  # removed in between


def private_folder(path: Path) -> Path:
    """Create a folder that its owner alone can use, or require that the one there is. Return it.

    A folder of this user's that the group may write is closed to the group. Raises `NotOwnedError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if require_own_folder(path).st_mode & 0o077:
            close_to_others(path)
    return path


def close_to_others(folder: Path) -> None:
    """Let its owner alone use a folder, where the file system keeps modes. Raises `OSError`."""
    try:
        folder.chmod(0o700)
    except PermissionError:  # exFAT refuses what it can't keep
        if keeps_modes(folder):
            raise


def keeps_modes(folder: Path) -> bool:
    """Return False where a new private folder in `folder`, which this user may write, is shown as open to others."""
    probe = folder / f".phipack-modes-{secrets.token_hex(8)}"
    try:
        probe.mkdir(0o700)
    except OSError:
        return True
    try:
        status = probe.lstat()
        return status.st_uid != os.geteuid() or not status.st_mode & 0o007
    finally:
        with suppress(OSError):
            probe.rmdir()


def require_own_folder(path: Path, *, shown_to_all: bool = False) -> os.stat_result:
    """Return what the system says of a folder: this user's, no link, and not writable by everybody.

    `shown_to_all`: what everybody could put there does no harm. Raises `NotOwnedError`.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _wrong_kind(path, status, "a folder")
    if status.st_uid != os.geteuid():
        raise _strangers(path, status)
    if not shown_to_all:
        _require_closed(path, status, "700")
    return status


def require_closed_to_everybody(path: Path) -> None:
    """Refuse a folder that everybody may write. Its owner and group are trusted with it. Raises `NotOwnedError`."""
    _require_closed(path, path.lstat(), "o-w")


def _require_closed(path: Path, status: os.stat_result, mode: str) -> None:
    if status.st_mode & stat.S_IWOTH and keeps_modes(path):
        raise NotOwnedError(
            f"{path} can be written by everybody, so what it holds can't be trusted",
            f"look at what it holds, or remove it; then: chmod {mode} {path}",
        )


def require_not_planted(path: Path) -> None:
    """Refuse what another user put into a folder that everybody may write, such as /tmp. Nothing there is fine.

    Links count by their owner. The owner of the folder, and root, are trusted with it. Raises `NotOwnedError`.
    """
    try:
        found, above = path.lstat(), path.absolute().parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if above.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), above.st_uid, 0):
        raise NotOwnedError(
            f"{path} belongs to {_name(found.st_uid)}, in a folder that everybody may write",
            "work in a folder that only you may write to",
        )


def own_link_followed(path: Path) -> Path:
    """Return where this user's own link leads, as to a larger disk; of anything else, the path itself."""
    try:
        status = path.lstat()
    except OSError:
        return path
    return path.resolve() if stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid() else path


def no_link(folder: Path) -> Path:
    """Return the path of a folder that several users share, or that is not there. Raises `NotOwnedError` for a link."""
    if folder.is_symlink():
        raise _wrong_kind(folder, folder.lstat(), "a folder")
    return folder


def is_own_file(status: os.stat_result, *, modes: bool = True) -> bool:
    """Return True for a regular file of this user's with one name, that nobody else may write.

    `modes`: off where the file system keeps none.
    """
    closed = not modes or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid() and closed


def kind_of(status: os.stat_result) -> str:
    """Return what it is, in words: `a folder`, `a pipe`."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


def _require_plain(path: Path, status: os.stat_result, *, own: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _wrong_kind(path, status, "a regular file")
    if status.st_nlink > 1:
        raise NotOwnedError(f"{path} is another file's second name (a hard link)", f"remove it: rm {path}")
    if own and status.st_uid != os.geteuid():
        raise _strangers(path, status)


def _wrong_kind(path: Path, status: os.stat_result, wanted: str) -> NotOwnedError:
    return NotOwnedError(f"{path} is {kind_of(status)}, not {wanted}", "remove it, or name another place")


def _strangers(path: Path, status: os.stat_result) -> NotOwnedError:
    return NotOwnedError(
        f"{path} belongs to {_name(status.st_uid)}, not to {_name(os.geteuid())}",
        f"run phipack as {_name(status.st_uid)}, remove it, or name another folder",
    )


def _name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
