"""The tensors of a GGUF file, and its other keys (`registry/formats/gguf_header.py` reads what stands before them)."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from registry.bundle.manifest import FileEntry, Manifest
from registry.diff.contents import Contents, Open, Place, Tensor
from registry.formats.forwards import REPLACE_BUNDLE, Forwards, Span
from registry.formats.gguf_header import GgufHeader, read_header
from targets.errors import BundleError
from targets.storage.gguf import TYPES

_KINDS = {kind.number: kind for kind in TYPES.values()}
_SHOWN_LENGTH = 60


def gguf_contents(manifest: Manifest, open_file: Open) -> Contents:
    """Read every GGUF file of a bundle. Raises `BundleError` where one is damaged."""
    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for entry, file in _files(manifest, open_file):
        header, spans = _header(file, entry)
        keys |= {"version": str(header.version)} | {name: _shown(value) for name, value in header.keys.items()}
        digests = file.digests(spans.values())
        tensors |= {
            info.name: Tensor(
                _KINDS[info.type_number].name if info.type_number in _KINDS else f"ggml type {info.type_number}",
                info.shape,
                spans[info.name].bytes,
                digests[spans[info.name]],
            )
            for info in header.tensors
        }
    return Contents(tensors, keys)


def gguf_places(manifest: Manifest, open_file: Open) -> dict[str, Place]:
    """Return where each tensor is, by its name, from the files' headers. Raises `BundleError` where one is damaged."""
    found: dict[str, Place] = {}
    for entry, file in _files(manifest, open_file):
        found |= {name: Place(entry.path, span) for name, span in _header(file, entry)[1].items()}
    return found


def _files(manifest: Manifest, open_file: Open) -> Iterator[tuple[FileEntry, Forwards]]:
    for entry in manifest.files:
        if entry.path.endswith(".gguf"):
            with open_file(entry) as stream:
                yield entry, Forwards(stream, entry.path, entry.bytes)


def _header(file: Forwards, entry: FileEntry) -> tuple[GgufHeader, dict[str, Span]]:
    """Read what stands before the tensors; also return where each of them is."""
    try:
        header = read_header(file, entry.path)
        start = file.position + -file.position % header.alignment
        offsets = sorted({info.offset for info in header.tensors})
        ends = dict([*pairwise(offsets), (offsets[-1], file.left + file.position - start)]) if offsets else {}
        spans = {}
        for info in header.tensors:
            kind = _KINDS.get(info.type_number)
            # The size of an unknown type is not known: up to the next tensor, padding included.
            count = math.prod(info.shape) // kind.length * kind.bytes if kind else ends[info.offset] - info.offset
            spans[info.name] = Span(start + info.offset, count)
    except (struct.error, KeyError, ValueError, OverflowError) as error:
        raise BundleError(f"{entry.path}: not a GGUF file that can be read: {error}", fix=REPLACE_BUNDLE) from error
    return header, spans


def _shown(value: Any) -> str:
    text = str(value)
    if len(text) <= _SHOWN_LENGTH and text.isprintable():
        return text
    return f"{len(text)} letters, sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
