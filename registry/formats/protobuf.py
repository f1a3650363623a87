"""Protobuf's wire format, without a schema. Source: protobuf.dev/programming-guides/encoding.

A message is a sequence of fields, each a number and a value: an integer, or bytes whose meaning the reader knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
_VARINT_BITS_LIMIT = 70

Field = tuple[int, int | memoryview]


def fields(raw: memoryview) -> Iterator[Field]:
    """Yield number and value of each field of a message; numbers of fixed width as their bytes. Nothing is copied."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(raw, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + length > len(raw):
            raise ValueError(f"a field of {length} bytes at byte {at} extends beyond the end")
        yield key >> 3, raw[at : at + length]
        at += length


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _VARINT_BITS_LIMIT, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"an unterminated number at byte {at}")


def varints(raw: memoryview, limit: int) -> list[int]:
    """Return the integers of a packed field; it stops past `limit` of them."""
    values: list[int] = []
    at = 0
    while at < len(raw) and len(values) <= limit:
        value, at = _varint(raw, at)
        values.append(value)
    return values


def hash_field(hasher: hashlib._Hash, place: str, value: int | memoryview) -> None:
    """Add a field, by its number or path, with its kind and length, so that no two messages are hashed alike."""
    hasher.update(f"{place}:{value};".encode() if isinstance(value, int) else f"{place}:{len(value)} bytes;".encode())
    if not isinstance(value, int):
        hasher.update(value)


def text(value: int | memoryview, limit: int = 1 << 16) -> str:
    """Return a field's text. Raises `ValueError` where it is a number, or longer than `limit` bytes, or not UTF-8."""
    if isinstance(value, int) or len(value) > limit:
        raise ValueError("a number or a long text where a name belongs")
    return bytes(value).decode()
