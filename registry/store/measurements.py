"""Measurements of a bundle on devices, in the store: one document for a bundle, which only grows.

    STORE/measurements/ab34….json    {"schema": "phipack.measurements/1", "bundle": "sha256:ab34…", "measurements": […]}

A measurement is of a digest, so it stays true when the bundle is collected, and counts again when it is built again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from registry.store.protocol import Document, Store, blob_path
from targets.errors import StoreError
from targets.measurement import Measurement
from targets.strict_json import MalformedJsonError, parse_json

MEASUREMENTS_SCHEMA = "phipack.measurements/1"
MEASUREMENTS_LIMIT = 1_000
BYTES_LIMIT = 16 << 20
_TRIES = 20


def read_measurements(store: Store, bundle: str) -> tuple[Measurement, ...]:
    """Return the measurements of a bundle, by its digest. Raises `StoreError` where they can't be read."""
    return _parsed(store.read_document(_name(bundle)), bundle)


def add_measurements(store: Store, bundle: str, measurements: Sequence[Measurement]) -> int:
    """Add measurements of a bundle, and return how many are new.

    Raises:
        StoreError: one is of another bundle; there are too many; or the store refuses.
    """
    for one in measurements:
        if one.bundle != bundle:
            raise StoreError(
                f"a measurement of {one.bundle or 'no bundle'} can't be kept for {bundle}",
                fix="import it with --bundle and the bundle that was measured",
            )
    for _ in range(_TRIES):
        document = store.read_document(_name(bundle))
        known = {one.to_json(): one for one in _parsed(document, bundle)}
        merged = known | {one.to_json(): one for one in measurements}
        if len(merged) == len(known):
            return 0
        if len(merged) > MEASUREMENTS_LIMIT:
            raise StoreError(
                f"{bundle} has {len(known)} measurements already; the limit is {MEASUREMENTS_LIMIT}",
                fix="add fewer, of the devices that count",
            )
        content = {
            "schema": MEASUREMENTS_SCHEMA,
            "bundle": bundle,
            "measurements": [json.loads(text) for text in sorted(merged)],
        }
        raw = (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
        if len(raw) > BYTES_LIMIT:  # what is written must be read again
            raise StoreError(
                f"the measurements of {bundle} would have {len(raw):,} bytes; the limit is {BYTES_LIMIT:,}",
                fix="add fewer, of the devices that count",
            )
        if store.write_document(_name(bundle), raw, replacing=None if document is None else document.tag):
            return len(merged) - len(known)
    raise StoreError(f"the measurements of {bundle} are being written by others", fix="try again")


def _name(bundle: str) -> str:
    return f"measurements/{blob_path(bundle).rpartition('/')[2]}.json"


def _parsed(document: Document | None, bundle: str) -> tuple[Measurement, ...]:
    if document is None:
        return ()
    source, raw = _name(bundle), document.content
    if len(raw) > BYTES_LIMIT:
        raise _malformed(source, f"more than {BYTES_LIMIT:,} bytes")
    try:
        content: Any = parse_json(raw)
    except MalformedJsonError as error:
        raise _malformed(source, str(error)) from error
    if not isinstance(content, dict) or content.get("schema") != MEASUREMENTS_SCHEMA:
        raise _malformed(source, f"its schema is not {MEASUREMENTS_SCHEMA}")
    listed = content.get("measurements")
    if content.get("bundle") != bundle or not isinstance(listed, list) or len(listed) > MEASUREMENTS_LIMIT:
        raise _malformed(source, "it is not of this bundle, or lists too much")
    found = tuple(Measurement.parse(json.dumps(one, allow_nan=False).encode(), source=source) for one in listed)
    if any(one.bundle != bundle for one in found):
        raise _malformed(source, "it has a measurement of another bundle")
    return found


def _malformed(source: str, why: str) -> StoreError:
    return StoreError(f"{source} in the store: {why}", fix="remove the document, and import the measurements again")
