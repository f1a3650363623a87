"""What a download has received so far, in a folder next to its destination; the next run continues from it.

    .phipack-partial-DIGEST-NAME/     for the bundle of that digest (16 hex digits) at NAME
      lock                            held by the process that downloads
      0, 1, …                         the files in the manifest's order; the last one is cut where writing stopped

Nothing in it is trusted: a download that continues hashes it first. It is its owner's alone (`owned.py`): another user
who had a file of it open could change it after it was verified. Whatever else is found in it is removed. The folder is
removed when a bundle has been put in place at NAME, and when a download ends without having received anything, or
because the disk is full.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from registry.files.lock import file_lock, try_lock
from registry.files.lock_wait import noticing
from registry.files.owned import NotOwnedError, close_to_others, is_own_file, keeps_modes, require_own_folder
from targets.errors import BuildError
from targets.progress import Progress, silent

PARTIAL_MARK = ".phipack-partial-"
_LOCK = "lock"


@contextmanager
def partial_folder(destination: Path, digest: str, on_progress: Progress = silent) -> Iterator[Path]:
    """Yield the folder for a bundle's download, with what an earlier one has received.

    Another process that downloads the same to the same destination is waited for, which `on_progress` receives a notice
    of. An error that leaves bytes in the folder gets a note (PEP 678) that says how many are kept, and where.

    Raises:
        NotOwnedError: another user has made the folder.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - a link at the destination is not followed
    destination.parent.mkdir(parents=True, exist_ok=True)
    name = f"{PARTIAL_MARK}{digest.removeprefix('sha256:')[:16]}-{destination.name}"
    folder = destination.parent / name
    with _locked(folder, on_progress, f"fetches to {destination}"):
        keep = True
        try:
            _remove_strange(folder)
            yield folder
            keep = False
            sweep_partials(destination, except_for=folder)
        except (OSError, BuildError):  # the disk's
            keep = False
            raise
        except BaseException as error:
            if count := received_bytes(folder):
                error.add_note(
                    f"{count / 1e6:.1f} MB of the download are kept in {folder}; the same command continues it"
                )
            raise
        finally:
            if not keep or not received_bytes(folder):
                shutil.rmtree(folder, ignore_errors=True)


def received_bytes(folder: Path) -> int:
    """Return how many bytes a partial folder holds."""
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.is_dir() else 0


def sweep_partials(destination: Path, *, except_for: Path | None = None) -> None:
    """Remove what earlier downloads to this destination have left, unless a process is using it."""
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - a link at the destination is not followed
    ours = re.compile(re.escape(PARTIAL_MARK) + "[0-9a-f]{16}-" + re.escape(destination.name))
    for left in destination.parent.glob(PARTIAL_MARK + "*"):
        if left == except_for or not ours.fullmatch(left.name):
            continue
        try:
            require_own_folder(left, shown_to_all=True)
            held = try_lock(left / _LOCK, mode=0o600)
        except OSError:  # not ours, or gone
            continue
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


@contextmanager
def _locked(folder: Path, on_progress: Progress, what: str) -> Iterator[None]:
    """Make the folder and hold its lock. `what`: another process does that holds it."""
    with ExitStack() as stack:
        while True:
            _make_private(folder)
            lock = folder / _LOCK
            try:
                with noticing(on_progress, what) as on_wait:
                    stack.enter_context(file_lock(lock, mode=0o600, on_wait=on_wait))
                break
            except FileNotFoundError:
                continue  # the folder was removed meanwhile
            except NotOwnedError:
                _remove(lock)
            except OSError:
                with suppress(OSError):  # it holds what an earlier try received
                    folder.rmdir()
                raise
        yield


def _make_private(folder: Path) -> None:
    """Create the folder, or close the one there to others. A link is removed, not followed."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        with suppress(FileNotFoundError):  # who had made it is done, and has removed it: its lock is gone, too
            if require_own_folder(folder, shown_to_all=True).st_mode & 0o077:
                close_to_others(folder)


def _remove_strange(folder: Path) -> None:
    """Remove everything but plain files of this user's with one name: others may have them open, or see them change."""
    found = {path: path.lstat() for path in folder.iterdir() if path.name != _LOCK}
    strange = [path for path, status in found.items() if not is_own_file(status)]
    if strange and not keeps_modes(folder):
        strange = [path for path in strange if not is_own_file(found[path], modes=False)]
    for path in strange:
        _remove(path)


def _remove(path: Path) -> None:
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()
