"""The folder where a release is made, and what lets it go on where it stopped.

    .phipack/
      store/                    the bundles' bytes (registry/store/)
      work/
        built/KEY.json          a build that was done: the digest of its bundle. KEY names all inputs
        evidence/KEY.json       figures that were measured: KEY names bundle, text, settings and runtimes
        bundles/KEY/            a bundle being validated; removed once the store has it and its evidence is taken
      cache/                    reference hidden states (builders/reference)

A key is a digest of everything that the result depends on, so that nothing is ever looked up by time or name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from registry.files.staging import disk_errors
from targets.recipes import Format

DEFAULT_ROOT = Path(".phipack")
# What a build's bytes depend on besides phipack itself: a new version of one of these builds anew.
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


@dataclass(frozen=True)
class Workshop:
    """Paths and records below one root."""

    root: Path = DEFAULT_ROOT

    @property
    def cache(self) -> Path:
        """Folder of the reference's cached hidden states."""
        return self.root / "cache"

    def bundle_folder(self, key: str) -> Path:
        """Where the bundle of a build key lies while it is worked on."""
        return self.root / "work" / "bundles" / key

    def read_record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Give what was recorded, or None. A damaged record counts as none: the work is done again."""
        try:
            content = json.loads(self._record_path(kind, key).read_bytes())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write_record(self, kind: str, key: str, content: dict[str, Any]) -> None:
        """Record a result, whole or not at all."""
        path = self._record_path(kind, key)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump(content, stream, indent=1, sort_keys=True)
                Path(beside).replace(path)
            finally:
                Path(beside).unlink(missing_ok=True)

    def _record_path(self, kind: str, key: str) -> Path:
        return self.root / "work" / kind / f"{key}.json"


def build_key(checkpoint_digest: str, recipe: str, format_: Format, context_length: int) -> str:
    """Name a build by its inputs: checkpoint, recipe, context, the tools that shape its bytes, and our own code."""
    tools = {name: version(name) for name in BUILD_TOOLS[format_]}
    return _key(checkpoint_digest, recipe, context_length, tools, own_code_digest())


def evidence_key(bundle_digest: str, format_: Format, settings: dict[str, Any]) -> str:
    """Name a measurement by its inputs: bundle, text and settings, runtimes, and our own code."""
    tools = {name: version(name) for name in RUNTIMES[format_]}
    return _key(bundle_digest, settings, tools, own_code_digest())


@cache
def own_code_digest() -> str:
    """Digest of the code that builds and measures: a changed quantizer builds anew, without a new version number."""
    digest = hashlib.sha256()
    for package in ("builders", "targets"):
        root = resources.files(package)
        with resources.as_file(root) as folder:
            for path in sorted(folder.rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
