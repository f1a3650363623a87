"""Parts: a bundle cut into folders of limited size, for packers that ship each by itself, and joined again.

    DIR/
      part-1/
        parts.json               the index: `PartsIndex`, schema phipack.parts/1
        bundle/manifest.json     files as in the bundle, small ones first
        bundle/model.gguf        a file's first bytes
      part-2/
        bundle/model.gguf        and those that follow

A part has at most one piece of a file, under the file's own path, so a file that fits into one part is there unchanged.
To join, append a file's pieces in the parts' order. The index has for each piece: path, part, offset in the file,
length and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.bundle.folder import Bundle, open_bundle, seal
from registry.bundle.manifest import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, Manifest
from registry.files.digests import digest_of_bytes
from registry.files.large_file import LargeFile
from registry.files.staging import staged_folder
from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import BuildError, BundleError
from targets.strict_json import MalformedJsonError, parse_model

PARTS_SCHEMA: Literal["phipack.parts/1"] = "phipack.parts/1"
INDEX_NAME = "parts.json"
CONTENT_FOLDER = "bundle"
PARTS_LIMIT = 1000
_INDEX_BYTES_LIMIT = 8 << 20
_READ_BYTES = 1 << 20
_FIX = "take all parts from one phipack split"
_NO_DIGEST = "0" * 64


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Piece(_Strict):
    """Consecutive bytes of a file, from `offset` on, in `part-PART/bundle/PATH`."""

    path: str
    part: int = Field(ge=1, le=PARTS_LIMIT)
    offset: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class PartsIndex(_Strict):
    """`parts.json`: the bundle's digest, how many parts there are, and the pieces in the order of parts."""

    schema_: Literal["phipack.parts/1"] = Field(PARTS_SCHEMA, alias="schema")
    bundle: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    parts: int = Field(ge=1, le=PARTS_LIMIT)
    pieces: tuple[Piece, ...]

    def to_bytes(self) -> bytes:
        """Return its JSON: two spaces, a final newline."""
        return (json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Part:
    """A part that was written: its folder and the bytes of its files."""

    path: Path
    bytes: int


def split(bundle: Bundle, out: Path, max_part_bytes: int, *, replace: bool = False) -> list[Part]:
    """Cut a bundle into `out/part-1` and so on, each with at most `max_part_bytes` in files. Memory: 10 MB.

    Raises:
        BuildError: `max_part_bytes` is too small, or `out` exists (unless `replace`) or can't be written.
        BundleError: the bundle's files are not the ones that its manifest names.
    """
    manifest = bundle.manifest
    sizes = {MANIFEST_NAME: len(manifest.to_bytes())}
    sizes |= {entry.path: entry.bytes for entry in sorted(manifest.files, key=lambda entry: (entry.bytes, entry.path))}
    planned = _planned(bundle.digest, sizes, max_part_bytes)
    whole = {entry.path: entry.sha256 for entry in manifest.files}
    whole[MANIFEST_NAME] = bundle.digest.removeprefix("sha256:")
    with staged_folder(out, replace=replace) as folder:
        pieces = []
        for path, in_order in _by_path(planned.pieces).items():
            pieces += _cut(bundle.file(path), in_order, folder, whole[path])
        index = planned.model_copy(update={"pieces": tuple(pieces)})
        (_folder(folder, 1) / INDEX_NAME).write_bytes(index.to_bytes())
        made = [sum(file.stat().st_size for file in _files(_folder(folder, number))) for number in _numbers(index)]
    return [Part(_folder(out, number), made[number - 1]) for number in _numbers(index)]


def join(parts: Path, out: Path, *, digest: str | None = None, replace: bool = False) -> Bundle:
    """Put the bundle whose parts are in `parts` at `out`, and verify every piece and every file.

    `digest`: accept only the bundle of this digest, `sha256:…`.

    Raises:
        BundleError: a part or a piece is missing or changed, or the index is wrong. Nothing was put in place.
        BuildError: `out` exists (unless `replace`) or can't be written.
    """
    index = _read_index(_folder(parts, 1) / INDEX_NAME)
    if digest is not None and index.bundle != digest:
        raise BundleError(f"{parts} joins to bundle {index.bundle}, not {digest}", fix="take the right parts")
    for number in _numbers(index):
        if not _folder(parts, number).is_dir():
            raise BundleError(
                f"{parts}: part {number} of {index.parts} is missing", fix="bring all parts into one folder"
            )
    pieces = _by_path(index.pieces)
    manifest = _read_manifest(parts, index, pieces.pop(MANIFEST_NAME, []))
    files = {entry.path: entry for entry in manifest.files}
    if strange := sorted(files.keys() ^ pieces.keys()):
        raise _wrong(parts, f"{strange[0]!r} is in its manifest or its pieces, not in both")
    with staged_folder(out, replace=replace) as folder:
        for path, in_order in pieces.items():
            entry, joined = files[path], folder / path
            _require_seamless(parts, in_order, entry.bytes)
            joined.parent.mkdir(parents=True, exist_ok=True)
            hasher = hashlib.sha256()
            with LargeFile(joined) as file:
                for data in _joined(parts, in_order):
                    hasher.update(data)
                    file.write(data)
            if hasher.hexdigest() != entry.sha256:
                raise _wrong(parts, f"{path!r} joins to another file than the manifest names")
        seal(folder, manifest)
    return open_bundle(out)


def _planned(digest: str, sizes: Mapping[str, int], max_part_bytes: int) -> PartsIndex:
    """Fill one part after the other; room for the index, whose length depends on the plan, is reserved in the first."""
    reserved = 0
    while True:
        pieces = tuple(_filled(sizes, max_part_bytes, reserved))
        parts = max(piece.part for piece in pieces)
        if reserved >= max_part_bytes or parts > PARTS_LIMIT:
            raise BuildError(
                f"parts of {max_part_bytes} bytes are too small for a bundle of {sum(sizes.values())}: at most "
                f"{PARTS_LIMIT} parts, and the index in the first",
                fix="use a larger --max-part-bytes",
            )
        index = PartsIndex(schema=PARTS_SCHEMA, bundle=digest, parts=parts, pieces=pieces)
        if (needed := len(index.to_bytes())) <= reserved:
            return index
        reserved = needed


def _filled(sizes: Mapping[str, int], max_part_bytes: int, reserved: int) -> Iterator[Piece]:
    part, room = 1, max_part_bytes - reserved
    for path, size in sizes.items():
        offset = 0
        while True:
            if room <= 0 and part <= PARTS_LIMIT:
                part, room = part + 1, max_part_bytes
            taken = min(room, size - offset)
            yield Piece.model_construct(path=path, part=part, offset=offset, bytes=taken, sha256=_NO_DIGEST)
            offset, room = offset + taken, room - taken
            if offset == size or part > PARTS_LIMIT:
                break


def _cut(source: Path, pieces: Sequence[Piece], folder: Path, sha256: str) -> list[Piece]:
    """Copy one file into its pieces; return them with their digests."""
    whole, made = hashlib.sha256(), []
    try:
        stream = source.open("rb")
    except OSError as error:
        raise _not_the_bundles(source, f"can't be read: {error.strerror}") from error
    with stream:
        for piece in pieces:
            hasher = hashlib.sha256()
            path = _path(folder, piece)
            path.parent.mkdir(parents=True, exist_ok=True)
            with LargeFile(path) as file:
                for data in _read(stream, piece.bytes, source):
                    hasher.update(data)
                    whole.update(data)
                    file.write(data)
            made.append(piece.model_copy(update={"sha256": hasher.hexdigest()}))
        if whole.hexdigest() != sha256 or stream.read(1):
            raise _not_the_bundles(source, "is not the file that the manifest names")
    return made


def _joined(parts: Path, pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yield a file's bytes; each piece is verified after its last byte."""
    for piece in pieces:
        path, hasher = _path(parts, piece), hashlib.sha256()
        try:
            stream = path.open("rb")
        except OSError as error:
            raise _wrong(parts, f"part {piece.part} has no readable {piece.path!r}: {error.strerror}") from error
        with stream:
            for data in _read(stream, piece.bytes, path):
                hasher.update(data)
                yield data
            if hasher.hexdigest() != piece.sha256 or stream.read(1):
                raise _wrong(parts, f"{piece.path!r} of part {piece.part} was changed: {path}")


def _read(stream: BinaryIO, size: int, path: Path) -> Iterator[bytes]:
    while size:
        data = stream.read(min(size, _READ_BYTES))
        if not data:
            raise _not_the_bundles(path, f"ends {size} bytes early")
        size -= len(data)
        yield data


def _read_index(path: Path) -> PartsIndex:
    try:
        return parse_model(PartsIndex, read_at_most(path, _INDEX_BYTES_LIMIT))
    except (OSError, TooLargeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"{path} can't be read: {reason}", fix="name the folder that holds part-1 and all the others"
        ) from error
    except MalformedJsonError as error:
        raise BundleError(f"{path}: not an index of schema {PARTS_SCHEMA}: {error}", fix=_FIX) from error


def _read_manifest(parts: Path, index: PartsIndex, pieces: Sequence[Piece]) -> Manifest:
    size = sum(piece.bytes for piece in pieces)
    if not pieces or size > MANIFEST_BYTES_LIMIT:
        raise _wrong(parts, f"no {MANIFEST_NAME} of at most {MANIFEST_BYTES_LIMIT} bytes")
    _require_seamless(parts, pieces, size)
    raw = b"".join(_joined(parts, pieces))
    if digest_of_bytes(raw) != index.bundle:
        raise _wrong(parts, f"{MANIFEST_NAME} is not the one of {index.bundle}")
    return Manifest.parse(raw, source=str(parts))


def _require_seamless(parts: Path, pieces: Sequence[Piece], size: int) -> None:
    end = 0
    for piece in pieces:
        if piece.offset != end:
            raise _wrong(parts, f"{piece.path!r} has no piece for byte {end}")
        end += piece.bytes
    if end != size:
        raise _wrong(parts, f"the pieces of {pieces[0].path!r} are {end} bytes, not {size}")


def _by_path(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    found: defaultdict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        found[piece.path].append(piece)
    return dict(found)


def _numbers(index: PartsIndex) -> range:
    return range(1, index.parts + 1)


def _folder(folder: Path, number: int) -> Path:
    return folder / f"part-{number}"


def _path(folder: Path, piece: Piece) -> Path:
    return _folder(folder, piece.part) / CONTENT_FOLDER / piece.path


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _wrong(parts: Path, why: str) -> BundleError:
    return BundleError(f"{parts} does not join: {why}", fix=_FIX)


def _not_the_bundles(path: Path, why: str) -> BundleError:
    return BundleError(f"{path} {why}", fix="build, fetch or split that bundle again")
