"""Bundles on disk: the manifest, and reading, writing and verifying.

    BUNDLE/
      manifest.json            this module's: what the bundle is, and digest and size of every other file
      tokenizer.json …         as in the checkpoint
      chat_template.jinja      the template alone, where the checkpoint has one
      model.gguf               gguf, or
      genai_config.json, model.onnx, model.onnx.data      onnx, or
      model.mlpackage/…        coreml

A bundle is named by the SHA-256 of its `manifest.json` and does not change. It names neither model nor version nor
target: those are the registry's words, and targets may share a bundle.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from registry.chunks import Chunk, FileDigest
from registry.large_file import read_pieces
from targets.errors import BundleError, PhipackError

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA: Literal["phipack.bundle/1"] = "phipack.bundle/1"
MANIFEST_BYTES_LIMIT = 8 << 20
_CHUNK = 1 << 20
_WINDOWS_DEVICE = re.compile(r"(con|conin\$|conout\$|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *", re.IGNORECASE)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the bundle: POSIX path relative to the bundle, size in bytes, SHA-256 in hex.

    `chunks`: all of the file, piece after piece; none, and none in the JSON, where a fetch is to take it as one.
    """

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    chunks: tuple[Chunk, ...] = ()

    @property
    def digest(self) -> str:
        """The file's name as a blob, `sha256:<hex>`."""
        return f"sha256:{self.sha256}"

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        unsafe = (
            not parts
            or path.startswith("/")
            or "\\" in path
            or ".." in parts
            or str(PurePosixPath(path)) != path
            or path == MANIFEST_NAME
            or any(unicodedata.category(letter).startswith("C") for letter in path)
            or any(part.endswith((" ", ".")) or ":" in part for part in parts)
            or any(_WINDOWS_DEVICE.fullmatch(part.split(".")[0]) for part in parts)
        )
        if unsafe:
            raise ValueError(f"unsafe path {path!r}")
        return path

    @model_validator(mode="after")
    def _chunks_fill_it(self) -> Self:
        size = sum(chunk.bytes for chunk in self.chunks)
        if self.chunks and size != self.bytes:
            raise ValueError(f"chunks of {size} bytes in a file of {self.bytes}")
        return self


class WeightClass(_Strict):
    """How many tensors are stored in one type, such as `Q4_K`, `int4 block 32` or `float16`."""

    storage: str
    tensors: int
    bytes: int


class RecipeEntry(_Strict):
    """The recipe, what it came to for this model, and what a reader must know of it (fallbacks, limits)."""

    name: str
    format: Literal["gguf", "onnx", "coreml"]
    weights: list[WeightClass]
    notes: list[str]


class ExactContext(_Strict):
    """Opened for `open_with` tokens, a runtime is exact for sequences of `first` to `last` tokens."""

    open_with: int
    first: int
    last: int


class ModelEntry(_Strict):
    """What the bundle runs. It accepts `context_length` tokens, and is exact for `exact_context_length`.

    `exact_contexts`: where it matters for how many tokens a runtime is opened (llama.cpp with longrope), shortest
    first; a sequence that outgrows one is to be read again in the next. Left out of the JSON where it does not matter.
    """

    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    exact_context_length: int
    exact_contexts: list[ExactContext] = Field(default_factory=list)


class GenerationEntry(_Strict):
    """How an app drives it: ids that end an answer, and the chat template's file, if any."""

    stop_token_ids: list[int]
    bos_token_id: int | None
    pad_token_id: int | None
    chat_template: str | None


def _folded(path: str) -> str:
    """What two paths share that are one on some disk: letter case does not count, nor how a letter is composed.

    Upper case first: a dotless i, which has no other folding, has I there.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).upper().casefold())


class Manifest(_Strict):
    """`manifest.json`. `checkpoint` and every digest read `sha256:<hex>`."""

    schema_: Literal["phipack.bundle/1"] = Field(MANIFEST_SCHEMA, alias="schema")
    model: ModelEntry
    recipe: RecipeEntry
    checkpoint: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    generation: GenerationEntry
    tools: dict[str, str]
    files: list[FileEntry]

    @field_validator("files")
    @classmethod
    def _no_collisions(cls, files: list[FileEntry]) -> list[FileEntry]:
        folded = [_folded(path) for path in (MANIFEST_NAME, *(entry.path for entry in files))]
        if len(set(folded)) != len(folded):
            raise ValueError("two files have the same name (letter case aside)")
        folders = {str(parent) for path in folded for parent in PurePosixPath(path).parents}
        if folders & set(folded):
            raise ValueError("a file has the name of another one's folder")
        return files

    def to_bytes(self) -> bytes:
        """Give the one JSON form: sorted keys, two spaces, UTF-8, a final newline."""
        content = self.model_dump(mode="json", by_alias=True)
        if not self.model.exact_contexts:
            del content["model"]["exact_contexts"]
        for file in content["files"]:
            if not file["chunks"]:
                del file["chunks"]
        return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")

    @property
    def digest(self) -> str:
        """The bundle's name: `sha256:<hex>` of `to_bytes()`."""
        return digest_of_bytes(self.to_bytes())

    @property
    def total_bytes(self) -> int:
        """Size of all files, the manifest's own included."""
        return sum(entry.bytes for entry in self.files) + len(self.to_bytes())

    @classmethod
    def parse(cls, raw: bytes, *, source: str) -> Manifest:
        """Read a manifest. Raises `BundleError` where it is not one in the canonical form."""
        if len(raw) > MANIFEST_BYTES_LIMIT:
            raise BundleError(f"{source}: a manifest of {len(raw)} bytes; the limit is {MANIFEST_BYTES_LIMIT}")
        try:
            manifest = cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"{source}: not a bundle manifest of schema {MANIFEST_SCHEMA}: {where or 'document'}: {first['msg']}"
            ) from error
        if manifest.to_bytes() != raw:
            raise BundleError(f"{source}: the manifest was rewritten by another program; its digest no longer names it")
        return manifest


@dataclass(frozen=True)
class Bundle:
    """A bundle folder with its parsed manifest. `open_bundle` and `seal` make them."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The bundle's name, `sha256:<hex>`."""
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """Path of one of its files or folders."""
        return self.path / name


def digest_of_bytes(raw: bytes) -> str:
    """Give `sha256:<hex>` of the bytes."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def digest_of_file(path: Path, *, past_cache: bool = False) -> str:
    """Give `sha256:<hex>` of the file's content, read in pieces; past the page cache if so asked."""
    if past_cache:
        hasher = hashlib.sha256()
        for piece in read_pieces(path):
            hasher.update(piece)
        return "sha256:" + hasher.hexdigest()
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def copy_hashed(source: BinaryIO, out: BinaryIO, unreadable: Callable[[OSError], PhipackError]) -> tuple[int, str]:
    """Copy to the end; give the count of bytes and `sha256:<hex>` of them. `unreadable` wraps the source's error."""
    hasher = hashlib.sha256()
    copied = 0
    while True:
        try:
            piece = source.read(_CHUNK)
        except OSError as error:
            raise unreadable(error) from error
        if not piece:
            return copied, "sha256:" + hasher.hexdigest()
        hasher.update(piece)
        out.write(piece)
        copied += len(piece)


def files_below(folder: Path) -> list[str]:
    """POSIX paths of all files below a folder, sorted, without the manifest. Raises `BundleError` on links."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"{path}: a bundle holds plain files only, no links or devices")
        if path.is_file() and name != MANIFEST_NAME:
            found.append(name)
    return found


def file_entries(folder: Path, known: Mapping[str, FileDigest] | None = None) -> list[FileEntry]:
    """Describe all files below a folder (manifest left out). `known`: digests of files that need no reading."""
    entries = []
    for name in files_below(folder):
        path = folder / name
        found = (known or {}).get(name) or FileDigest(digest_of_file(path).removeprefix("sha256:"))
        entries.append(FileEntry(path=name, bytes=path.stat().st_size, sha256=found.sha256, chunks=found.chunks))
    return entries


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Write the manifest into a folder whose files it describes."""
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return Bundle(folder, manifest)


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest, without reading its files. Raises `BundleError`."""
    path = folder / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle: {MANIFEST_NAME} can't be read ({error.strerror})",
            fix="give a folder made by phipack build or phipack fetch",
        ) from error
    return Bundle(folder, Manifest.parse(raw, source=str(path)))


def verify(bundle: Bundle) -> None:
    """Compare every file with the manifest: none missing, none extra, sizes and digests right. Raises `BundleError`."""
    expected = {entry.path: entry for entry in bundle.manifest.files}
    present = set(files_below(bundle.path))
    if missing := sorted(expected.keys() - present):
        raise BundleError(f"{bundle.path}: missing file {missing[0]!r}", fix="fetch or build it again")
    if extra := sorted(present - expected.keys()):
        raise BundleError(f"{bundle.path}: file {extra[0]!r} is not in the manifest", fix="fetch or build it again")
    for name, entry in expected.items():
        path = bundle.path / name
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(f"{path}: {size} bytes, the manifest says {entry.bytes}", fix="fetch or build it again")
        digest = digest_of_file(path)
        if digest != entry.digest:
            raise BundleError(f"{path}: content differs from the manifest ({digest})", fix="fetch or build it again")
