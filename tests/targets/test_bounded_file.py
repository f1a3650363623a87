"""A file that is larger than any of its kind is refused for that, by every reader; not as one that is malformed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders.checkpoint import checkpoint
from builders.runtime.coreml import program_file
from builders.tokenizer import tiktoken
from registry.bundle import folder, parts
from targets import evidence, toml_file
from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import PhipackError
from targets.project import load_project

READERS: dict[str, tuple[object, str, str, Callable[[Path], object]]] = {
    "JSON of a checkpoint": (
        checkpoint,
        "_JSON_BYTES_LIMIT",
        "config.json",
        lambda path: checkpoint.read_json(path, required=True),
    ),
    "ranks": (tiktoken, "_BYTES_LIMIT", "cl100k.tiktoken", tiktoken.read_ranks),
    "TOML": (toml_file, "BYTES_LIMIT", "phipack.toml", load_project),
    "evidence": (evidence, "BYTES_LIMIT", "evidence.json", evidence.Evidence.read),
    "manifest": (folder, "MANIFEST_BYTES_LIMIT", "manifest.json", lambda path: folder.open_bundle(path.parent)),
    "index of parts": (parts, "_INDEX_BYTES_LIMIT", "index.json", parts._read_index),
    "Core ML": (
        program_file,
        "PROGRAM_BYTES_LIMIT",
        f"Data/{program_file.MODEL_FILE}",
        lambda path: program_file.read_program(path.parents[2]),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_over_the_limit_is_said_to_be_too_large(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, limit, file, read = READERS[name]
    monkeypatch.setattr(module, limit, 30)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"[" * 31)
    with pytest.raises(PhipackError, match="more than 30 bytes"):
        read(path)


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(30))
    assert read_at_most(tmp_path / "file", 30) == bytes(30)
    with pytest.raises(TooLargeError, match="more than 29 bytes"):
        read_at_most(tmp_path / "file", 29)
