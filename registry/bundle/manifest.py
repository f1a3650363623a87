"""`manifest.json`: what a bundle is, and digest and size of every file in it.

A bundle is identified by the SHA-256 of its manifest, in the one canonical form that `Manifest.to_bytes` writes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from registry.bundle.chunks import Chunk
from registry.files.digests import digest_of_bytes
from targets.errors import BundleError
from targets.runtimes import Requires
from targets.strict_json import MalformedJsonError, parse_model

MANIFEST_NAME = "manifest.json"

MANIFEST_SCHEMA: Literal["phipack.bundle/1"] = "phipack.bundle/1"

MANIFEST_BYTES_LIMIT = 8 << 20
# What every system accepts (POSIX's least PATH_MAX is 256, Linux' 4,096); our own deepest path has 4 parts.
_PATH_LIMIT, _DEPTH_LIMIT = 1000, 32
_NAME_BYTES = 255
_FIX = "fetch or build the bundle again"

_WINDOWS_DEVICE = re.compile(r"(con|conin\$|conout\$|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *", re.IGNORECASE)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the bundle: POSIX path relative to the bundle, size in bytes, SHA-256 in hex.

    `chunks`: all of the file, piece after piece; empty, and left out of the JSON, where a fetch downloads it as one.
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
            not 0 < len(parts) <= _DEPTH_LIMIT
            or len(path) > _PATH_LIMIT
            or path.startswith("/")
            or "\\" in path
            or ".." in parts
            or str(PurePosixPath(path)) != path
            or path == MANIFEST_NAME
            or any(unicodedata.category(letter).startswith("C") for letter in path)
            or any(part.endswith((" ", ".")) or ":" in part or len(part.encode()) > _NAME_BYTES for part in parts)
            or any(_WINDOWS_DEVICE.fullmatch(part.split(".")[0]) for part in parts)
        )
        if unsafe:
            raise ValueError(f"unsafe path {path[:_PATH_LIMIT]!r}")
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


class CalibrationEntry(_Strict):
    """What the weights were rounded with: how much was learned from a text, and which tokens it had.

    `text`: digest of the token ids in windows, as evidence names its own; of the file, where an importance matrix took
    the text's place, and `tokens` is 0.
    """

    level: Literal["light", "full"]
    text: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    tokens: int = Field(ge=0)


class MatrixEntry(_Strict):
    """How one matrix is stored, and the divergence that it causes, in nats.

    `name`: the checkpoint's. `sensitivity`: measured, with this matrix alone in the format's 4-bit blocks. `cost`: the
    estimate for `storage`.
    """

    name: str
    storage: str
    bytes: int = Field(ge=0)
    sensitivity: float = Field(ge=0)
    cost: float = Field(ge=0)


class BudgetEntry(_Strict):
    """The size that was asked for, that of all files listed in bytes, and what was chosen, as the checkpoint orders it.

    `asked`: such as `at most 2000000000 B` or `4.2 bits`.
    """

    asked: str
    bytes: int = Field(ge=0)
    matrices: list[MatrixEntry]


class RecipeEntry(_Strict):
    """The recipe, how it stored this model's weights, and notes that a reader needs (fallbacks, limits).

    `calibration`, `budget`: left out of the JSON where there was none. `kv_cache`: the type of keys and values with
    which the runtime must be opened (GGUF, such as `q8_0`) or that the graph has (ONNX, `int8`); left out where they
    are the runtime's own floats.
    """

    name: str
    format: Literal["gguf", "onnx", "coreml"]
    weights: list[WeightClass]
    notes: list[str]
    calibration: CalibrationEntry | None = None
    budget: BudgetEntry | None = None
    kv_cache: str = Field(default="", pattern=r"^[a-z0-9_]{0,16}$")  # it becomes an argument of commands


class ExactContext(_Strict):
    """Opened for `open_with` tokens, a runtime is exact for sequences of `first` to `last` tokens."""

    open_with: int
    first: int
    last: int


class ModelEntry(_Strict):
    """What the bundle runs. It accepts `context_length` tokens, and is exact for `exact_context_length`.

    `exact_contexts`: where it matters for how many tokens a runtime is opened (llama.cpp with longrope), shortest
    first; a sequence that outgrows one must be read again in the next. Left out of the JSON where it does not matter.
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


class AdapterEntry(_Strict):
    """What was merged while the bundle was built: digests of the base checkpoint and of the adapter.

    The manifest's `checkpoint` then names the merge of the two: it is `merged_digest` of them.
    """

    base: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    adapter: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")


def merged_digest(base: str, adapter: str) -> str:
    """Return the digest that names the merge of a checkpoint and an adapter, given theirs."""
    return digest_of_bytes(f"phipack merge\nbase {base}\nadapter {adapter}\n".encode())


def _folded(path: str) -> str:
    """Return a form that is equal for paths that are the same on some disk: without case and composition of letters.

    Upper case first: a dotless i, which has no other folding, becomes I there.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).upper().casefold())


class Manifest(_Strict):
    """`manifest.json`. `checkpoint` and every digest read `sha256:<hex>`.

    `merged_from`: where the checkpoint was merged with an adapter while it was read; else left out of the JSON.
    `requires`: what the files need of a runtime; left out by versions of phipack that did not know it.
    """

    schema_: Literal["phipack.bundle/1"] = Field(MANIFEST_SCHEMA, alias="schema")
    model: ModelEntry
    recipe: RecipeEntry
    checkpoint: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    generation: GenerationEntry
    tools: dict[str, str]
    files: list[FileEntry]
    merged_from: AdapterEntry | None = None
    requires: Requires | None = None

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

    @model_validator(mode="after")
    def _named_by_what_was_merged(self) -> Self:
        parts = self.merged_from
        if parts is not None and self.checkpoint != merged_digest(parts.base, parts.adapter):
            raise ValueError("checkpoint is not the digest of base and adapter in merged_from")
        return self

    def to_bytes(self) -> bytes:
        """Return the one JSON form: sorted keys, two spaces, UTF-8, a final newline."""
        content = self.model_dump(mode="json", by_alias=True)
        if self.merged_from is None:
            del content["merged_from"]
        if self.requires is None:
            del content["requires"]
        else:
            content["requires"] = self.requires.model_dump(mode="json", exclude_defaults=True)
        if not self.model.exact_contexts:
            del content["model"]["exact_contexts"]
        if self.recipe.calibration is None:
            del content["recipe"]["calibration"]
        if self.recipe.budget is None:
            del content["recipe"]["budget"]
        if not self.recipe.kv_cache:
            del content["recipe"]["kv_cache"]
        for file in content["files"]:
            if not file["chunks"]:
                del file["chunks"]
        return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode(
            "utf-8"
        )

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
        """Parse a manifest. Raises `BundleError` where it is not in the canonical form."""
        if len(raw) > MANIFEST_BYTES_LIMIT:
            raise BundleError(
                f"{source}: a manifest of {len(raw)} bytes or more; the limit is {MANIFEST_BYTES_LIMIT}", fix=_FIX
            )
        try:
            manifest = parse_model(cls, raw)
        except MalformedJsonError as error:
            raise BundleError(
                f"{source}: not a bundle manifest of schema {MANIFEST_SCHEMA}: {error}",
                fix=f"{_FIX}; if a newer phipack wrote it, update phipack",
            ) from error
        if manifest.to_bytes() != raw:
            raise BundleError(
                f"{source}: the manifest was rewritten by another program; its digest has changed", fix=_FIX
            )
        return manifest
