"""Action records: what any machine has done is done, wherever the store is reached from.

    actions/build/KEY.json         a bundle that was built: its digest
    actions/validate/KEY.json      a bundle that was measured: its digest, and the figures as evidence
    actions/measure/KEY.json       a bundle that was measured on a device
    actions/calibrate/KEY.json     what builds learn from a checkpoint: names and digests of files, which are blobs
    actions/checkpoint/KEY.json    what a checkpoint's bundles are planned from, for who has not got its files

KEY is a digest of everything that the result depends on, so nothing is ever looked up by time or name. A record appears
whole, and the first one counts: of two machines that do the same at once, both finish and one records.

A record counts only while the store has all of the bundle, or all of the files, that it names. Anything else under its
name (damaged, of another schema, of another key) counts as none and is replaced. Whoever may write to the store is
trusted with what was measured, as with the bundles: SECURITY.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from registry.store.protocol import ACTIONS, Blob, Document, Store
from targets.errors import StoreError
from targets.strict_json import MalformedJsonError, parse_model

Action = Literal["build", "validate", "measure", "calibrate", "checkpoint"]
_NAME = re.compile(rf"actions/({'|'.join(get_args(Action))})/([0-9a-f]{{32}})\.json")
_DIGEST = r"^sha256:[0-9a-f]{64}$"
_FILES = "files"  # in the content of a calibration's record
_ATTEMPTS = 5


class ActionRecord(BaseModel):
    """One job that was done.

    `seconds`: what it took on `machine`; `amount`: how much work that was, in the unit of the job's rate. `content`:
    the result, of a form that the action's owner knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: Literal["phipack.action/1"] = Field("phipack.action/1", alias="schema")
    action: Action
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    recipe: Annotated[str, Field(max_length=64)] = ""
    checkpoint: Annotated[str, Field(pattern=_DIGEST)]
    bundle: Annotated[str, Field(pattern=_DIGEST)] | None = None
    machine: Annotated[str, Field(max_length=200)] = ""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    amount: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    content: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def files(self) -> dict[str, Blob] | None:
        """The files of a calibration by name; none of any other action, None where the content is damaged."""
        if self.action != "calibrate":
            return {}
        try:
            found = _ENTRIES.validate_python(self.content.get(_FILES))
        except ValidationError:
            return None
        return {name: Blob(digest, size) for name, (digest, size) in found.items()}

    @property
    def document_name(self) -> str:
        """The name of its document in the store."""
        return document_name(self.action, self.key)

    def to_bytes(self) -> bytes:
        """Return its one form: sorted keys, no spaces, UTF-8, a final newline."""
        content = self.model_dump(mode="json", by_alias=True)
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"


_ENTRIES = TypeAdapter(dict[str, tuple[Annotated[str, Field(pattern=_DIGEST)], Annotated[int, Field(ge=0)]]])


def content_of(files: Mapping[str, Blob]) -> dict[str, JsonValue]:
    """Return the content of a calibration's record. `ActionRecord.files` reads it."""
    return {_FILES: {name: [blob.digest, blob.bytes] for name, blob in files.items()}}


def document_name(action: Action, key: str) -> str:
    """Return the name of a record's document in the store."""
    return f"{ACTIONS}{action}/{key}.json"


def parse_record(name: str, raw: bytes) -> ActionRecord | None:
    """Return the record in a document's bytes; None where it is damaged, or not the one that its name says."""
    try:
        record = parse_model(ActionRecord, raw)
    except MalformedJsonError:
        return None
    return record if record.document_name == name else None


def read_action(store: Store, action: Action, key: str) -> ActionRecord | None:
    """Return a record that counts, None where there is none. Raises `StoreError` where the store can't be read."""
    name = document_name(action, key)
    return _counting(store, name, store.read_document(name))


def _any(_record: ActionRecord) -> bool:
    return True


def write_action(store: Store, record: ActionRecord, counts: Callable[[ActionRecord], bool] = _any) -> ActionRecord:
    """Record what was done, and return the record that counts: where another machine was quicker, its own.

    `counts`: says of a record that is there, with a bundle that is whole, whether it counts. If not, it is replaced.

    Raises:
        StoreError: the store can't be written.
    """
    name, raw = record.document_name, record.to_bytes()
    replacing: str | None = None
    for _ in range(_ATTEMPTS):
        if store.write_document(name, raw, replacing=replacing):
            return record
        there = store.read_document(name)
        counting = _counting(store, name, there)
        if counting is not None and counts(counting):
            return counting
        replacing = None if there is None else there.tag
    raise StoreError(
        f"{store.uri}/{name} was changed by others {_ATTEMPTS} times while it was written", fix="run the same again"
    )


def record_names(store: Store, action: Action | None = None, *, seconds: float = 0.0) -> Iterator[str]:
    """Yield the names of all documents that are named like records, of one action or of all, of at least this age."""
    for name in store.documents(f"{ACTIONS}{action}/" if action else ACTIONS, seconds=seconds):
        if _NAME.fullmatch(name):
            yield name


def has_records(store: Store, action: Action) -> bool:
    """Return whether any job of a kind was ever recorded. Raises `StoreError`."""
    return any(True for _ in record_names(store, action))


def read_record(store: Store, name: str) -> ActionRecord | None:
    """Return the record of a document, whether or not its bundle is there. Raises `StoreError`."""
    there = store.read_document(name)
    return None if there is None else parse_record(name, there.content)


def _counting(store: Store, name: str, there: Document | None) -> ActionRecord | None:
    record = None if there is None else parse_record(name, there.content)
    if record is None or (record.bundle is not None and not store.has_bundle(record.bundle)):
        return None
    if record.files is None or any(store.blob_bytes(blob.digest) != blob.bytes for blob in record.files.values()):
        return None
    return record
