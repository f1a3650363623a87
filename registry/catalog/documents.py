"""A catalog's documents, which TUF's targets metadata signs. docs/delivery.md describes them for other clients.

    BASE/
      metadata/timestamp.json, N.snapshot.json, N.targets.json, N.root.json      TUF 1.0, consistent snapshots
      targets/MODEL/channels/HASH.production.json                               `ChannelDocument`
      targets/MODEL/releases/HASH.1.2.0.json                                    `ReleaseDocument`
      blobs/sha256/ab/ab34…                                                     manifests, files, deltas

TUF names a document without its HASH: `MODEL/releases/1.2.0.json`. From there on digests carry the trust: a release
has the digests of its manifests, a manifest those of its files.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.bundle.manifest import MANIFEST_BYTES_LIMIT
from registry.catalog.rollout import Stage
from targets.devices import Target
from targets.errors import PhipackError
from targets.recipes import Format
from targets.runtimes import RuntimeNeed, VersionGap
from targets.selection import DeviceClass
from targets.strict_json import MalformedJsonError, parse_model

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

DOCUMENT_BYTES_LIMIT = 4 << 20
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Content = TypeVar("_Content", bound="_Document")


class _Open(BaseModel):
    # A newer publisher may add keys: phones in the field ignore them, and an older publisher keeps them.
    model_config = ConfigDict(extra="allow", frozen=True)


class _Document(_Open):
    _left_out_where_empty: ClassVar[tuple[str, ...]] = ()

    def to_bytes(self) -> bytes:
        """Return the document's JSON: sorted keys, no spaces, UTF-8, a final newline."""
        content = self.model_dump(mode="json", by_alias=True)
        for name in self._left_out_where_empty:
            if not content[name]:
                del content[name]
        return (
            json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"
        ).encode()


class DeviceEntry(_Open):
    """A target's devices, as the catalog's publisher knew them. `ram_bytes`: the memory as advertised."""

    title: str
    soc: str
    os: str
    minimum_os: str
    identifiers: tuple[str, ...]
    ram_bytes: int = Field(gt=0)

    @classmethod
    def of(cls, target: Target) -> DeviceEntry:
        """Describe a target."""
        return cls(
            title=target.title,
            soc=target.soc,
            os=target.os,
            minimum_os=target.minimum_os,
            identifiers=target.identifiers,
            ram_bytes=int(target.ram.value),
        )

    def device_class(self, name: str) -> DeviceClass:
        """Return what selection needs."""
        return DeviceClass(name, self.soc, self.os, self.minimum_os, self.identifiers, self.ram_bytes)


class DeltaEntry(_Open):
    """The blob of a delta file (`delta.py`) that rebuilds a cell's bundle from bundle `from`."""

    from_: _Digest = Field(alias="from")
    blob: _Digest
    bytes: int = Field(gt=0)


class RequiredGap(VersionGap):
    """Versions of a runtime that fail, although they are late enough."""

    model_config = ConfigDict(extra="allow", frozen=True)


class RequiredRuntime(RuntimeNeed):
    """A runtime that a bundle needs; as in its manifest, or stricter where the publisher's table knows more."""

    model_config = ConfigDict(extra="allow", frozen=True)

    gaps: Annotated[tuple[RequiredGap, ...], Field(strict=False)] = ()

    @classmethod
    def of(cls, need: RuntimeNeed) -> RequiredRuntime:
        """Describe a need."""
        return cls.model_validate_json(need.model_dump_json())


class CellEntry(_Open):
    """A cell's bundle: its digest, which is also the name of the manifest's blob, and its size with all files.

    `requires`: the runtimes that it needs; None where its manifest does not say.
    """

    target: str
    recipe: str
    format: Format
    bundle: _Digest
    manifest_bytes: int = Field(gt=0, le=MANIFEST_BYTES_LIMIT)
    bytes: int = Field(gt=0)
    deltas: tuple[DeltaEntry, ...] = ()
    requires: tuple[RequiredRuntime, ...] | None = None


class ReleaseDocument(_Document):
    """A release: its cells by their names, and the devices of the cells' targets."""

    schema_: Literal["phipack.release/1"] = Field("phipack.release/1", alias="schema")
    model: str
    release: str
    devices: dict[str, DeviceEntry]
    cells: dict[str, CellEntry]

    @model_validator(mode="after")
    def _targets_are_described(self) -> Self:
        if missing := {cell.target for cell in self.cells.values()} - self.devices.keys():
            raise ValueError(f"target {min(missing)!r} is not described")
        return self


class ChannelDocument(_Document):
    """What a channel points at: the stages of each cell, newest first.

    `earlier`: by cell, releases that the channel had for everybody before, newest first, for apps whose runtimes can
    run none of the stages. Only those are kept that some app can run and none that is newer.
    """

    schema_: Literal["phipack.channel/1"] = Field("phipack.channel/1", alias="schema")
    model: str
    channel: str
    cells: dict[str, tuple[Stage, ...]]
    earlier: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    _left_out_where_empty = ("earlier",)

    @model_validator(mode="after")
    def _stages_are_there(self) -> Self:
        if empty := [cell for cell, stages in self.cells.items() if not stages]:
            raise ValueError(f"cell {empty[0]!r} has no stage")
        return self


@dataclass
class Documents(ABC):
    """A catalog's documents, each read once. `files`: TUF's targets by name; every document must have its digest."""

    files: Mapping[str, TargetFile]
    _parsed: dict[str, _Document] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def paths(self) -> Collection[str]:
        """TUF's names of all documents."""
        return self.files.keys()

    def channel(self, model: str, channel: str) -> ChannelDocument | None:
        """Return a channel, None where it is not published. Raises `PhipackError` where it is missing or changed."""
        return self._document(ChannelDocument, channel_path(model, channel))

    def release(self, model: str, release: str) -> ReleaseDocument | None:
        """Return a release, None where it is not published. Raises `PhipackError` where it is missing or changed."""
        return self._document(ReleaseDocument, release_path(model, release))

    def content(self, path: str) -> bytes | None:
        """Return a document's bytes, None where it is not published. Raises `PhipackError` as `channel` does."""
        file = self.files.get(path)
        return None if file is None else self._read(path, file)

    @abstractmethod
    def _read(self, path: str, file: TargetFile) -> bytes:
        """Read a document of these hashes and this length. Raises `PhipackError` where it is another one."""

    @abstractmethod
    def _malformed(self, path: str, why: str) -> PhipackError:
        """Return the error for a document that is signed, and can't be parsed."""

    def _document(self, kind: type[_Content], path: str) -> _Content | None:
        if path not in self._parsed:
            raw = self.content(path)
            if raw is None:
                return None
            try:
                self._parsed[path] = parse_document(kind, raw)
            except MalformedJsonError as error:
                raise self._malformed(path, str(error)) from error
        found = self._parsed[path]
        assert isinstance(found, kind), path
        return found


def parse_document(kind: type[_Content], raw: bytes) -> _Content:
    """Parse a document. Raises `MalformedJsonError` that says where it is wrong."""
    return parse_model(kind, raw)


def channel_path(model: str, channel: str) -> str:
    """Return TUF's name of a channel's document."""
    return f"{model}/channels/{channel}.json"


def release_path(model: str, release: str) -> str:
    """Return TUF's name of a release's document."""
    return f"{model}/releases/{release}.json"


def naming_hash(file: TargetFile) -> str:
    """Return the hash that a document's file has in its name: SHA-256, else the first that is listed."""
    return file.hashes.get("sha256") or next(iter(file.hashes.values()))


def hashed_path(path: str, file: TargetFile) -> str:
    """Return a document's path below `targets/` (TUF 1.0, 6.2, consistent snapshots)."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{naming_hash(file)}.{name}"


def is_document(file: TargetFile, raw: bytes) -> bool:
    """Return True where the bytes have the length and every hash that TUF lists, all by algorithms that are known."""
    from tuf.api.exceptions import LengthOrHashMismatchError

    try:
        file.verify_length_and_hashes(raw)
    except LengthOrHashMismatchError:
        return False
    return True


def releases_of(model: str, paths: Iterable[str]) -> list[str]:
    """Return the versions of a model's releases among TUF's names."""
    before = f"{model}/releases/"
    return [path.removeprefix(before).removesuffix(".json") for path in paths if path.startswith(before)]


def models_of(paths: Iterable[str]) -> list[str]:
    """Return the names of all models among TUF's names."""
    return sorted({path.split("/", 1)[0] for path in paths})
