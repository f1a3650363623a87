"""The tensors of a GGUF file, and its other keys (`registry/formats/gguf_header.py` reads what stands before them)."""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import pairwise
from typing import Any

from registry.bundle.manifest import FileEntry, Manifest
from registry.diff.contents import Contents, Open, Tensor
from registry.formats.forwards import REPLACE_BUNDLE, Forwards, Span
from registry.formats.gguf_header import read_header
from targets.errors import BundleError
from targets.storage.gguf import TYPES

_KINDS = {kind.number: kind for kind in TYPES.values()}
_SHOWN_LENGTH = 60


def gguf_contents(manifest: Manifest, open_file: Open) -> Contents:
    """Read every GGUF file of a bundle. Raises `BundleError` where one is damaged."""
    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for entry in manifest.files:
        if entry.path.endswith(".gguf"):
            with open_file(entry) as stream:
                try:
                    found = _read(Forwards(stream, entry.path, entry.bytes), entry)
                except (struct.error, KeyError, ValueError, OverflowError) as error:
                    raise BundleError(
                        f"{entry.path}: not a GGUF file that can be read: {error}", fix=REPLACE_BUNDLE
                    ) from error
            tensors |= found.tensors
            keys |= found.keys
    return Contents(tensors, keys)


def _read(file: Forwards, entry: FileEntry) -> Contents:
    header = read_header(file, entry.path)
    keys = {"version": str(header.version)} | {name: _shown(value) for name, value in header.keys.items()}
    start = file.position + -file.position % header.alignment
    offsets = sorted({info.offset for info in header.tensors})
    ends = dict([*pairwise(offsets), (offsets[-1], file.left + file.position - start)]) if offsets else {}
    spans = {}
    for info in header.tensors:
        kind = _KINDS.get(info.type_number)
        # The size of an unknown type is not known: up to the next tensor, padding included.
        count = math.prod(info.shape) // kind.length * kind.bytes if kind else ends[info.offset] - info.offset
        spans[info.name] = Span(start + info.offset, count)
    digests = file.digests(spans.values())
    tensors = {
        info.name: Tensor(
            _KINDS[info.type_number].name if info.type_number in _KINDS else f"ggml type {info.type_number}",
            info.shape,
            spans[info.name].bytes,
            digests[spans[info.name]],
        )
        for info in header.tensors
    }
    return Contents(tensors, keys)


def _shown(value: Any) -> str:
    text = str(value)
    if len(text) <= _SHOWN_LENGTH and text.isprintable():
        return text
    return f"{len(text)} letters, sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
