"""What a download has received so far, in a folder next to its destination; the next run continues from it.

    .phipack-partial-DIGEST-NAME/     for the bundle of that digest (16 hex digits) at NAME
      lock                            held by the process that downloads
      0, 1, …                         the files in the manifest's order; the last one is cut where writing stopped

Nothing in it is trusted: a download that continues hashes it first. Links are removed, not followed: somebody else may
have put them there. The folder is removed when a bundle has been put in place at NAME, and when a download ends without
having received anything, or because the disk is full.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.files.lock import try_lock
from targets.errors import BuildError, FetchError

PARTIAL_MARK = ".phipack-partial-"
_LOCK = "lock"


@contextmanager
def partial_folder(destination: Path, digest: str) -> Iterator[Path]:
    """Yield the folder for a bundle's download, with what an earlier one has received.

    An error that leaves bytes in it gets a note (PEP 678) that says how many are kept, and where.

    Raises:
        FetchError: another process is downloading to the same destination.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - a link at the destination is not followed
    destination.parent.mkdir(parents=True, exist_ok=True)
    name = f"{PARTIAL_MARK}{digest.removeprefix('sha256:')[:16]}-{destination.name}"
    folder = destination.parent / name
    held = _locked(folder)
    if held is None:
        raise FetchError(
            f"{destination} is being fetched by another process", fix="wait until it ends, or name another folder"
        )
    keep = True
    try:
        _remove_links(folder)
        yield folder
        keep = False
        sweep_partials(destination, except_for=folder)
    except (OSError, BuildError):  # the disk's
        keep = False
        raise
    except BaseException as error:
        if count := received_bytes(folder):
            error.add_note(f"{count / 1e6:.1f} MB of the download are kept in {folder}; the same command continues it")
        raise
    finally:
        if not keep or not received_bytes(folder):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def received_bytes(folder: Path) -> int:
    """Return how many bytes a partial folder holds."""
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.is_dir() else 0


def sweep_partials(destination: Path, *, except_for: Path | None = None) -> None:
    """Remove what earlier downloads to this destination have left, unless a process is using it."""
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - a link at the destination is not followed
    ours = re.compile(re.escape(PARTIAL_MARK) + "[0-9a-f]{16}-" + re.escape(destination.name))
    for left in destination.parent.glob(PARTIAL_MARK + "*"):
        if left == except_for or not ours.fullmatch(left.name) or left.is_symlink() or not left.is_dir():
            continue
        held = _locked(left)
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _locked(folder: Path) -> int | None:
    """Make the folder and take its lock; None where another process holds it."""
    while True:
        if folder.is_symlink():
            folder.unlink()
        folder.mkdir(exist_ok=True)
        path = folder / _LOCK
        try:
            return try_lock(path, mode=0o600)
        except FileNotFoundError:
            continue  # it was swept meanwhile
        except OSError as error:
            if error.errno != errno.ELOOP:
                with suppress(OSError):  # it holds what an earlier try received
                    folder.rmdir()
                raise
            path.unlink()  # a link


def _remove_links(folder: Path) -> None:
    """Remove everything but plain files with one link: writing to it would change a file elsewhere."""
    for path in folder.iterdir():
        status = path.lstat()
        if path.name != _LOCK and not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
            shutil.rmtree(path) if stat.S_ISDIR(status.st_mode) else path.unlink()
