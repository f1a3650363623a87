"""The folder where releases are built: work in progress, and the locks of this machine's processes.

    .phipack/
      store/                    the bundles' bytes, and records of what was built and measured (registry/store/)
      work/
        bundles/KEY/            a bundle that is being built or validated; removed afterwards
        bundles/KEY.lock        held by the process that builds it; removed afterwards
        validation.lock         held by the process that validates: what two do at once, neither measures rightly
        check.lock              held by the process that compares the checkpoint with transformers: once is enough
        calibration.lock        held by the process that measures what a calibrated build needs: once is enough
      cache/                    reference hidden states (builders/reference), and statistics of calibrations

`work/` and `cache/` are their owner's alone (registry/files/owned.py). They may be the owner's links to a larger disk.
Nothing in `work/` is needed once its processes have ended; a key is a job's (`matrix/keys.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.files.lock import file_lock
from registry.files.lock_wait import noticing
from registry.files.owned import own_link_followed, private_folder
from registry.files.staging import disk_errors
from targets.progress import Progress, silent

DEFAULT_ROOT = Path(".phipack")


@dataclass(frozen=True)
class BuildCache:
    """Folders for work in progress, and locks, below one root."""

    root: Path = DEFAULT_ROOT

    @property
    def reference_folder(self) -> Path:
        """Folder of the float32 reference's hidden states, and of calibrations' statistics."""
        return own_link_followed(self.root / "cache")

    @property
    def work_folder(self) -> Path:
        """Folder of bundles that are worked on, and of locks."""
        return own_link_followed(self.root / "work")

    def bundle_folder(self, key: str) -> Path:
        """Return where the bundle of a build key lies while it is worked on."""
        return self.work_folder / "bundles" / key

    @contextmanager
    def building(self, keys: Collection[str], on_progress: Progress = silent) -> Iterator[None]:
        """Keep other processes from building these keys. Who waits looks at the records afterwards."""
        with ExitStack() as stack:
            folder = self._folder("bundles")
            with disk_errors(folder):
                for key in sorted(keys):  # two processes that share some never wait for each other
                    lock = folder / f"{key}.lock"
                    with noticing(on_progress, f"builds the same in {folder / key}") as on_wait:
                        stack.enter_context(file_lock(lock, mode=0o600, on_wait=on_wait, removed=True))
            yield

    def validating(self, on_progress: Progress = silent) -> AbstractContextManager[None]:
        """Keep other processes from validating. Who waits looks at the records afterwards."""
        return self._alone("validation.lock", "validates a bundle", on_progress)

    def checking(self, on_progress: Progress = silent) -> AbstractContextManager[None]:
        """Keep other processes from checking a checkpoint. Who waits looks at the oracle's record afterwards."""
        return self._alone("check.lock", "compares a checkpoint with transformers", on_progress)

    def calibrating(self, on_progress: Progress = silent) -> AbstractContextManager[None]:
        """Keep other processes from calibrating. Who waits finds what they measured in the cache."""
        return self._alone("calibration.lock", "calibrates a checkpoint", on_progress)

    @contextmanager
    def _alone(self, name: str, what: str, on_progress: Progress) -> Iterator[None]:
        with ExitStack() as stack:
            lock = self._folder() / name
            with disk_errors(lock), noticing(on_progress, f"{what}: it holds {lock}") as on_wait:
                stack.enter_context(file_lock(lock, mode=0o600, on_wait=on_wait))
            yield

    def _folder(self, *names: str) -> Path:
        """Create a folder below `work`, or require that it is this user's."""
        folder = self.work_folder
        with disk_errors(folder):
            private_folder(folder)
            for name in names:
                folder = private_folder(folder / name)
        return folder
