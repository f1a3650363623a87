"""The folder where releases are built, and the records that let one go on where it stopped.

    .phipack/
      store/                    the bundles' bytes (registry/store/)
      work/
        built/KEY.json          a build that was done: the digest of its bundle
        evidence/KEY.json       figures that were measured
        bundles/KEY/            a bundle that is being built or validated; removed afterwards
      cache/                    reference hidden states (builders/reference)

A key is a digest of everything that the result depends on (`build_key`, `evidence_key`), so that nothing is ever looked
up by time or name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builders.own_code import own_code_digest
from registry.files.atomic import write_atomically
from registry.files.staging import disk_errors
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
        return self.root / "cache"

    def bundle_folder(self, key: str) -> Path:
        """Return where the bundle of a build key lies while it is worked on."""
        return self.root / "work" / "bundles" / key

    def has_records(self, kind: str) -> bool:
        """Return whether anything of a kind (`built`, `evidence`) was ever recorded."""
        return any((self.root / "work" / kind).glob("*.json"))

    def read_record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return what was recorded, or None. A damaged record counts as none: the work is done again."""
        try:
            content = parse_json(self._record_path(kind, key).read_bytes())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write_record(self, kind: str, key: str, content: dict[str, Any]) -> None:
        """Record a result, whole or not at all."""
        path = self._record_path(kind, key)
        with disk_errors(path):
            write_atomically(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode())

    def _record_path(self, kind: str, key: str) -> Path:
        return self.root / "work" / kind / f"{key}.json"


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
