"""Safetensors files, checked by their headers and mapped into memory.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data
(source: the safetensors README). Nothing is read into memory until a tensor is asked for.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from registry.files.large_file import read_pieces
from targets.errors import CheckpointError, UnsupportedModelError
from targets.strict_json import MalformedJsonError, parse_json

HEADER_BYTES_LIMIT = 100 << 20  # safetensors' own limit
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_UNREADABLE_FIX = "check the disk and the file's permissions, then run the same command again"
_MAPPED_BYTES = 8 << 20  # of a mapped piece
_LARGEST_NUMBER = (1 << 63) - 1
_LARGEST_RANK = 32  # numpy's
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_STORED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its file, its byte range from the file's start, and its dtype as safetensors spells it."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        """Length of its data."""
        return self.stop - self.start


def read_index(folder: Path) -> dict[str, str] | None:
    """Return the index's map from tensor to shard, or None for a checkpoint of one file."""
    index = folder / INDEX_NAME
    return _weight_map(index) if index.exists() else None


def read_header(file: Path) -> list[StoredTensor]:
    """Read and check a safetensors header: dtypes, shapes, offsets without gap or overlap, and the file's length.

    Raises:
        CheckpointError: naming the file and, where there is one, the tensor.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > HEADER_BYTES_LIMIT or 8 + length > size:
                raise CheckpointError(
                    f"{file}: truncated, or not safetensors: a header of {length} bytes in a file of {size}",
                    fix="download it again",
                )
            header = _json_object(stream.read(length), file)
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror}", fix=_UNREADABLE_FIX) from error
    header.pop("__metadata__", None)
    tensors = sorted((_entry(file, name, entry, 8 + length) for name, entry in header.items()), key=lambda t: t.start)
    position = 8 + length
    for tensor in tensors:
        if tensor.start != position:
            relation = "overlaps the tensor before it" if tensor.start < position else "leaves a gap before it"
            raise CheckpointError(f"{file}: tensor {tensor.name!r} {relation}", fix="download it again")
        position = tensor.stop
    if position != size:
        raise CheckpointError(
            f"{file}: {size} bytes, its header describes {position}: truncated or damaged", fix="download it again"
        )
    return tensors


class MappedTensors:
    """Tensors of all shards, mapped read-only. With `past_cache`, `pieces` reads the files past the page cache instead.

    The system drops a mapped tensor's pages when memory is short. It ends a process by SIGBUS that reads a mapped page
    which the file no longer has; so the file's size is looked at before each tensor, and in `pieces` before each piece.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor], *, past_cache: bool = False) -> None:
        self.entries = tensors
        self._past_cache = past_cache
        self._maps: dict[Path, mmap.mmap] = {}

    def stored(self, name: str) -> NDArray[Any]:
        """Return a read-only view in the stored dtype; bfloat16 as its uint16 bits.

        Raises:
            CheckpointError: the file can't be read, or has been cut short since it was opened.
        """
        tensor = self.entries[name]
        self._require_whole(tensor)
        count = math.prod(tensor.shape)
        view = np.frombuffer(self._map(tensor.file), dtype=_STORED[tensor.dtype], count=count, offset=tensor.start)
        return view.reshape(tensor.shape)

    def pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield all elements in order, as `stored` has them, in flat pieces; each is valid until the next one.

        Raises:
            CheckpointError: the file can't be read, or has been cut short since it was opened.
        """
        tensor = self.entries[name]
        dtype = _STORED[tensor.dtype]
        if not self._past_cache or tensor.start % dtype.itemsize:  # an element would lie across two pieces
            yield from self._mapped_pieces(name)
            return
        try:
            for piece in read_pieces(tensor.file, tensor.start, tensor.stop):
                yield np.frombuffer(piece, dtype)
        except OSError as error:
            raise CheckpointError(f"{tensor.file} can't be read: {error.strerror}", fix=_UNREADABLE_FIX) from error

    def has_words(self, name: str) -> bool:
        """Return whether a tensor can be read as words of 4 bytes: float32, or bfloat16 by twos."""
        tensor = self.entries[name]
        return not self._past_cache and tensor.dtype in ("F32", "BF16") and tensor.start % 4 == 0

    def release(self, name: str) -> None:
        """Let the system drop a tensor's pages, which count as this process's memory until they are dropped."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        tensor = self.entries[name]
        start = tensor.start - tensor.start % mmap.PAGESIZE
        self._map(tensor.file).madvise(mmap.MADV_DONTNEED, start, tensor.stop - start)

    def _mapped_pieces(self, name: str) -> Iterator[NDArray[Any]]:
        tensor, flat = self.entries[name], self.stored(name).reshape(-1)
        step = _MAPPED_BYTES // flat.itemsize
        for start in range(0, len(flat), step):
            self._require_whole(tensor)
            yield flat[start : start + step]

    def _require_whole(self, tensor: StoredTensor) -> None:
        """Raise `CheckpointError` where the file that was mapped does not reach the tensor's end any more."""
        size = self._map(tensor.file).size()
        if size < tensor.stop:
            raise CheckpointError(
                f"{tensor.file}: {size} bytes, and tensor {tensor.name!r} ends at {tensor.stop}: the file was cut short"
                " while it was read",
                fix="let nothing write into the checkpoint's folder meanwhile; download the file again",
            )

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            try:
                with file.open("rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: it is empty now
                reason = error.strerror if isinstance(error, OSError) else "it is empty"
                raise CheckpointError(f"{file} can't be read: {reason}", fix=_UNREADABLE_FIX) from error
        return self._maps[file]


@dataclass(frozen=True)
class MappedRows:
    """A mapped tensor whose file's size is looked at whenever rows are sliced. Rows are as `stored` has them."""

    tensors: MappedTensors
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.tensors.entries[self.name].shape

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return a read-only view of some rows. Raises `CheckpointError` as `stored` does."""
        return self.tensors.stored(self.name)[rows]


def too_large_to_keep(tensors: Mapping[str, StoredTensor]) -> bool:
    """Return whether tensors exceed half of this machine's memory: it could not keep them for a second read."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # a system that does not report its memory
        return False
    return sum(tensor.bytes for tensor in tensors.values()) > memory // 2


def widen(stored: NDArray[Any], dtype: str, out: NDArray[np.float32]) -> None:
    """Widen float16, bfloat16 (its bits in uint16) or float32 into an array of the same shape, exactly."""
    out[...] = stored.view(ml_dtypes.bfloat16) if dtype == "BF16" else stored


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = _json_object(index.read_bytes(), index)
    except OSError as error:
        raise CheckpointError(f"{index} can't be read: {error.strerror}", fix=_UNREADABLE_FIX) from error
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
        raise CheckpointError(
            f"{index}: 'weight_map' must map tensor names to shard names", fix="download the index again"
        )
    return weight_map


def _json_object(raw: bytes, source: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                raise CheckpointError(f"{source}: {name!r} appears twice", fix="download it again")
            seen[name] = value
        return seen

    try:
        content = parse_json(raw, ours=False, pairs=unique)
    except MalformedJsonError as error:
        raise CheckpointError(f"{source}: not valid JSON: {error}", fix="download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: a JSON object was expected", fix="download it again")
    return content


def _entry(file: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: tensor {name!r}: malformed header entry", fix="download it again") from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise UnsupportedModelError(
            f"{file}: tensor {name!r} has dtype {dtype}; phipack builds from F16, BF16 and F32",
            fix="save the model in float32: model.to(torch.float32).save_pretrained(...)"
            if dtype == "F64"
            else "use the checkpoint as released, not one that is already quantized",
        )
    numbers = (*shape, start, stop)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _LARGEST_NUMBER for n in numbers):
        raise CheckpointError(
            f"{file}: tensor {name!r}: shape and offsets must be whole numbers of 64 bits", fix="download it again"
        )
    if len(shape) > _LARGEST_RANK or stop - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(
            f"{file}: tensor {name!r}: {stop - start} bytes for shape {list(shape)} of {dtype}", fix="download it again"
        )
    return StoredTensor(name, file, dtype, shape, data_start + start, data_start + stop)
