"""phipack's folder on a phone, and how files get there: what is missing by digest, resumed, and verified afterwards.

    /data/local/tmp/phipack/
      bundles/HEX/FILE…       a bundle's files; HEX is the digest of its manifest
      runtimes/HEX/FILE…      a runtime's programs; HEX is the digest of their names and digests
      run/                    of the one run that goes on: what its program prints, and its process id
      …/FILE.part, .piece     what has come of a file so far, and the piece that is on its way
      …/.keep                 the folder stays for the next measurement (--keep)

A file has its name only after `sha256sum` on the phone gave its digest. A file that was pushed before is hashed again.
Files go over in pieces, so that a push that broke off goes on where it was.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.devices.adb.client import LostConnectionError, Phone, full
from builders.devices.adb.listing import STORAGE, free_bytes
from registry.files.digests import digest_of_file
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from targets.errors import DeviceError
from targets.progress import Notice, Progress, Step, silent

HOME = f"{STORAGE}/phipack"
PIECE_BYTES = 64 << 20
_HASH_SECONDS = 600.0
_SLOWEST_PUSH = 1 << 20  # bytes a second; a USB 2 cable has 30 times that
_SPARE_BYTES = 64 << 20  # left free on the phone: Android warns and clears caches below
_RECONNECTS = 3
_KEPT = ".keep"


@dataclass(frozen=True)
class Item:
    """One file to be on the phone. `path`: relative to its folder. `sha256`: in hex. `program`: it can be run."""

    source: Path
    path: str
    bytes: int
    sha256: str
    program: bool = False


@dataclass(frozen=True)
class Folder:
    """A folder on the phone that is named by what is in it, such as `bundles/HEX`."""

    name: str
    items: tuple[Item, ...]

    @property
    def path(self) -> str:
        """Its path on the phone."""
        return f"{HOME}/{self.name}"

    @property
    def bytes(self) -> int:
        """The size of all of its files."""
        return sum(item.bytes for item in self.items)


def runtime_folder(programs: Sequence[Path]) -> Folder:
    """Return the folder for a runtime's programs and libraries, and their digest in its name."""
    items = [
        Item(path, path.name, path.stat().st_size, digest_of_file(path).removeprefix("sha256:"), program=True)
        for path in sorted(programs)
    ]
    names = "".join(f"{item.sha256} {item.path}\n" for item in items)
    return Folder(f"runtimes/{hashlib.sha256(names.encode()).hexdigest()}", tuple(items))


@dataclass(frozen=True)
class Storage:
    """phipack's folder on one phone. `piece_bytes`: how much of a file goes over at once."""

    phone: Phone
    on_progress: Progress = silent
    piece_bytes: int = PIECE_BYTES

    def put(self, folders: Sequence[Folder]) -> int:
        """Push what is missing, and return how many bytes that were. A lost connection is taken up again.

        Raises:
            DeviceError: not enough space, or a file arrives damaged twice.
            LostConnectionError: the phone does not come back, or is lost again and again.
        """
        missing = [(folder, item) for folder in folders for item in self._missing(folder)]
        total = sum(item.bytes for _, item in missing)
        self._require_space(missing, total)
        done = 0
        for folder, item in missing:
            self._push(folder, item, done, total)
            done += item.bytes
        for folder in folders:
            if programs := [f"{folder.path}/{item.path}" for item in folder.items if item.program]:
                self.phone.ask(f"chmod 755 {_quoted(programs)}")
        self.on_progress(Step("push", total, total, "bytes"))
        return total

    def keep(self, folders: Sequence[Folder]) -> None:
        """Mark folders, so that they stay for the next measurement."""
        names = _quoted(folder.path for folder in folders)
        self.phone.ask(f"for each in {names}; do [ ! -d $each ] || touch $each/{_KEPT}; done")

    def remove(self, folders: Sequence[Folder]) -> None:
        """Remove folders, whether they are marked or not, and see that they are gone."""
        names = _quoted(folder.path for folder in folders)
        self.phone.ask(f"rm -rf {names}; for each in {names}; do [ ! -e $each ] || exit 1; done")

    def sweep(self, needed: Sequence[Folder] = ()) -> None:
        """Remove everything below phipack's folder but what is needed or marked: also what lost connections left."""
        spared = " ".join(f"{shlex.quote(folder.path)}|" for folder in needed).replace("| ", "|")
        self.phone.ask(
            f"rm -rf {HOME}/run; for each in {HOME}/bundles/* {HOME}/runtimes/*; do case $each in {spared}'') ;; "
            f"*) [ -e $each/{_KEPT} ] || rm -rf $each ;; esac; done; "
            f"rmdir {HOME}/bundles {HOME}/runtimes {HOME} 2>/dev/null; true"
        )

    def _missing(self, folder: Folder) -> list[Item]:
        """Return the files that are not on the phone with these bytes."""
        paths = [f"{folder.path}/{item.path}" for item in folder.items]
        found = self._digests(paths)
        return [item for item, path in zip(folder.items, paths, strict=True) if found.get(path) != item.sha256]

    def _digests(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the SHA-256 of those files that are there."""
        command = f"sha256sum {_quoted(paths)} 2>/dev/null; true"
        answer = self.phone.run(command, seconds=_HASH_SECONDS)
        lines = (line.split(None, 1) for line in answer.output.splitlines())
        # By place below phipack's own folder: what leads there may have another name on the phone.
        digests = {
            parts[1].strip().partition("/phipack/")[2]: parts[0].lstrip("\\") for parts in lines if len(parts) == 2
        }
        return {path: digests[name] for path in paths if (name := path.partition("/phipack/")[2]) in digests}

    def _require_space(self, missing: Sequence[tuple[Folder, Item]], total: int) -> None:
        free = free_bytes(self.phone)
        parts = sum(self._size(f"{folder.path}/{item.path}.part") for folder, item in missing)
        largest = max((item.bytes for _, item in missing), default=0)
        needed = total - parts + min(self.piece_bytes, largest) + (_SPARE_BYTES if missing else 0)
        if free is not None and free < needed:
            raise DeviceError(
                f"{self.phone.serial}: the phone has {free:,} bytes free, and {needed:,} are needed for "
                f"{total:,} bytes of files",
                fix="free space on the phone (Settings, Storage), or measure a smaller recipe",
            )

    def _push(self, folder: Folder, item: Item, done: int, total: int) -> None:
        """Push one file piece by piece. It arrives with its digest, or after a second try not at all."""
        path, part = f"{folder.path}/{item.path}", f"{folder.path}/{item.path}.part"
        for _ in range(2):
            self._push_pieces(part, item, done, total)
            if next(iter(self._digests([part]).values()), None) == item.sha256:
                self.phone.ask(f"mv {shlex.quote(part)} {shlex.quote(path)}")
                return
            self.phone.ask(f"rm -f {shlex.quote(part)}")
        raise DeviceError(
            f"{self.phone.serial}: {item.path} arrives on the phone with other bytes, twice",
            fix="use another cable or port; if it stays so, the phone's storage may be failing",
        )

    def _push_pieces(self, part: str, item: Item, done: int, total: int) -> None:
        lost = 0
        while True:
            try:
                self._append_rest(part, item, done, total)
            except LostConnectionError:
                lost += 1
                self.on_progress(Notice(f"{self.phone.serial}: connection lost during the push; waiting for the phone"))
                if lost > _RECONNECTS or not self.phone.comes_back():
                    raise
            else:
                return

    def _append_rest(self, part: str, item: Item, done: int, total: int) -> None:
        """Append what is missing of a file. A piece is appended whole: what broke off in the middle is cut off."""
        quoted, piece = shlex.quote(part), shlex.quote(f"{part}.piece")
        folder = shlex.quote(part.rpartition("/")[0])
        size = int(self.phone.ask(f"mkdir -p {folder} && rm -f {piece} && touch {quoted} && stat -c %s {quoted}"))
        there = min(item.bytes, size - size % self.piece_bytes if size < item.bytes else item.bytes)
        if there != size:
            self.phone.ask(f"truncate -s {there} {quoted}")
        with item.source.open("rb") as source, temporary_folder("phipack-push", kind=DeviceError) as place:
            source.seek(there)
            while there < item.bytes:
                self.on_progress(Step("push", done + there, total, "bytes"))
                content = source.read(min(self.piece_bytes, item.bytes - there))
                local = place / "piece"
                with disk_errors(local, DeviceError):
                    local.write_bytes(content)
                self.phone.push(local, f"{part}.piece", seconds=60 + len(content) / _SLOWEST_PUSH)
                answer = self.phone.run(f"cat {piece} >> {quoted} && rm -f {piece}")
                if answer.code:
                    raise self._not_written(answer.last_words)
                there += len(content)

    def _not_written(self, said: str) -> DeviceError:
        if "No space left" in said:
            return full(self.phone.serial)
        return DeviceError(
            f"{self.phone.serial}: the phone can't write: {said}", fix="restart the phone, and try again"
        )

    def _size(self, path: str) -> int:
        text = self.phone.run(f"stat -c %s {shlex.quote(path)} 2>/dev/null; true").output.strip()
        return int(text) if text.isdigit() else 0


def _quoted(paths: Iterable[str]) -> str:
    return " ".join(shlex.quote(path) for path in paths)
