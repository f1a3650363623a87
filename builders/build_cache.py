"""The folder where releases are built, and the records that let one go on where it stopped.

    .phipack/
      store/                    the bundles' bytes (registry/store/)
      work/
        built/KEY.json          a build that was done: the digest of its bundle
        evidence/KEY.json       figures that were measured
        bundles/KEY/            a bundle that is being built or validated; removed afterwards
        bundles/KEY.lock        held by the process that builds it; removed afterwards
        validation.lock         held by the process that validates: what two do at once, neither measures rightly
        check.lock              held by the process that compares the checkpoint with transformers: once is enough
      cache/                    reference hidden states (builders/reference)

`work/` and `cache/` are their owner's alone (registry/files/owned.py): what they say was measured is believed. They may
be the owner's links to a larger disk.

A key is a digest of everything that the result depends on (`build_key`, `evidence_key`), so that nothing is ever looked
up by time or name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builders.own_code import own_code_digest
from registry.files.atomic import write_atomically
from registry.files.lock import file_lock
from registry.files.lock_wait import noticing
from registry.files.owned import own_link_followed, private_folder, require_own_folder
from registry.files.staging import disk_errors
from targets.progress import Progress, silent
from targets.recipes import Format
from targets.strict_json import parse_json

DEFAULT_ROOT = Path(".phipack")
# What a build's bytes depend on, other than phipack itself: with a new version of one of these it is built again.
BUILD_TOOLS: dict[Format, tuple[str, ...]] = {
    "gguf": ("gguf", "llama-cpp-python", "numpy"),
    "onnx": ("onnx", "onnxruntime", "numpy"),
    "coreml": ("coremltools", "numpy"),
}
RUNTIMES: dict[Format, tuple[str, ...]] = {
    "gguf": ("llama-cpp-python",),
    "onnx": ("onnxruntime",),
    "coreml": ("coremltools",),
}
ORACLE = "transformers"  # what the float32 reference is held to: another version may read a checkpoint differently


@dataclass(frozen=True)
class BuildCache:
    """Records of what was built and measured, and folders for work in progress, below one root."""

    root: Path = DEFAULT_ROOT

    @property
    def reference_folder(self) -> Path:
        """Folder of the float32 reference's hidden states."""
        return own_link_followed(self.root / "cache")

    @property
    def work_folder(self) -> Path:
        """Folder of bundles that are worked on, and of records."""
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
                    on_wait = noticing(on_progress, f"builds the same in {folder / key}")
                    lock = folder / f"{key}.lock"
                    stack.enter_context(file_lock(lock, mode=0o600, on_wait=on_wait, removed=True))
            yield

    def validating(self, on_progress: Progress = silent) -> AbstractContextManager[None]:
        """Keep other processes from validating. Who waits looks at the records afterwards."""
        return self._alone("validation.lock", "validates a bundle", on_progress)

    def checking(self, on_progress: Progress = silent) -> AbstractContextManager[None]:
        """Keep other processes from checking a checkpoint. Who waits looks at the oracle's record afterwards."""
        return self._alone("check.lock", "compares a checkpoint with transformers", on_progress)

    @contextmanager
    def _alone(self, name: str, what: str, on_progress: Progress) -> Iterator[None]:
        with ExitStack() as stack:
            lock = self._folder() / name
            with disk_errors(lock):
                on_wait = noticing(on_progress, f"{what}: it holds {lock}")
                stack.enter_context(file_lock(lock, mode=0o600, on_wait=on_wait))
            yield

    def has_records(self, kind: str) -> bool:
        """Return whether anything of a kind (`built`, `evidence`) was ever recorded."""
        return any((self.work_folder / kind).glob("*.json"))

    def read_record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return what was recorded, or None. A record that is damaged, or another user's, counts as none."""
        path = self._record_path(kind, key)
        try:
            for folder in (path.parents[1], path.parent):
                require_own_folder(folder)
            content = parse_json(path.read_bytes())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write_record(self, kind: str, key: str, content: dict[str, Any]) -> None:
        """Record a result, whole or not at all."""
        path = self._folder(kind) / f"{key}.json"
        with disk_errors(path):
            write_atomically(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode())

    def _folder(self, *names: str) -> Path:
        """Create a folder below `work`, or require that it is this user's."""
        folder = self.work_folder
        with disk_errors(folder):
            private_folder(folder)
            for name in names:
                folder = private_folder(folder / name)
        return folder

    def _record_path(self, kind: str, key: str) -> Path:
        return self.work_folder / kind / f"{key}.json"


def build_key(checkpoint_digest: str, recipe: str, format_: Format, context_length: int) -> str:
    """Return the name of a build: a digest of checkpoint, recipe, context, tools that shape its bytes, and our code."""
    tools = {name: version(name) for name in BUILD_TOOLS[format_]}
    return _key(checkpoint_digest, recipe, context_length, tools, own_code_digest())


def build_tools(format_: Format) -> dict[str, str]:
    """Return the tools that a bundle of this format names in its manifest, with their versions."""
    return {name: version(name) for name in ("phipack", *BUILD_TOOLS[format_])}


def evidence_key(bundle_digest: str, format_: Format, settings: dict[str, Any]) -> str:
    """Return the name of a measurement: a digest of bundle, text, settings, runtimes, oracle, and our own code."""
    tools = {name: version(name) for name in (*RUNTIMES[format_], ORACLE)}
    return _key(bundle_digest, settings, tools, own_code_digest())


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]
