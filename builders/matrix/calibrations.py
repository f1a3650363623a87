"""What calibrations have measured, shared through the store: once for all cells and machines of a release.

    cache/NAME.squares, NAME.moments/…, NAME.….sensitivities   <──fetch── ──add──>   blobs, actions/calibrate/KEY.json

The files are those of the cache (`builders/quantization/`). The first record of a walk counts, so that all machines
build from the same numbers: processors of different makes may differ in the last bits of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builders.matrix.cell_plan import Inputs
from builders.matrix.rates import walk_amount
from builders.matrix.records import LabelledEffort, record_walk, recorded_walk
from builders.quantization.calibration.walks import CalibrationWalk
from registry.files.atomic import UNFINISHED_SUFFIX
from registry.files.digests import digest_of_file
from registry.files.owned import private_folder
from registry.files.staging import disk_errors, owner_mark
from registry.store.protocol import Blob
from targets.errors import BuildError


@dataclass(frozen=True)
class WalksInStore:
    """Implements `SharedWalks` for a release. `added`: labels of the walks that were recorded here."""

    inputs: Inputs
    added: set[str] = field(default_factory=set)

    def fetch(self, walk: CalibrationWalk, folder: Path, names: Sequence[str]) -> bool:
        """Put the recorded files into the folder, where others are there. Raises `StoreError`, `BuildError`."""
        files = recorded_walk(self.inputs.store, self.inputs.walk_key(walk))
        if files is None or files.keys() != set(names):
            return False
        for name in names:
            if not _is(files[name], folder / name):
                self._copy(files[name], folder, name)
        return True

    def add(self, walk: CalibrationWalk, folder: Path, names: Sequence[str], seconds: float | None) -> bool:
        """Add the files to the store, then the record. Raises `StoreError`; `BuildError` where one can't be read."""
        store, checkpoint, files = self.inputs.store, self.inputs.checkpoint, dict[str, Blob]()
        for name in names:
            path = folder / name
            try:
                files[name] = blob = Blob(digest_of_file(path), path.stat().st_size)
                if not store.has_kept(blob):
                    with path.open("rb") as source:
                        store.put(source, blob, what=str(path))
            except OSError as error:
                raise BuildError(
                    f"{path} can't be read: {error.strerror or error}",
                    fix="run the same command again: what is missing is measured again",
                ) from error
        amount = walk_amount(checkpoint.architecture, walk) if seconds is not None else 0.0
        effort = LabelledEffort(seconds or 0.0, amount, walk.label)
        counts = record_walk(store, self.inputs.walk_key(walk), checkpoint.digest, files, effort)
        self.added.update({walk.label} if counts else ())
        return counts

    def _copy(self, blob: Blob, folder: Path, name: str) -> None:
        """Put a blob in place: the file appears whole, and only its owner can read it."""
        path = folder / name
        with disk_errors(path):
            private_folder(folder)
            private_folder(path.parent)
            unfinished = path.with_name(f".{path.name}.{owner_mark()}0{UNFINISHED_SUFFIX}")
            self.inputs.store.copy_out(blob.digest, unfinished, what=f"a calibration's {path.name}")
            unfinished.chmod(0o600)
            unfinished.replace(path)


def _is(blob: Blob, path: Path) -> bool:
    """Return whether a file that can be read is this blob."""
    try:
        return path.stat().st_size == blob.bytes and digest_of_file(path) == blob.digest
    except OSError:
        return False
