"""The laws of a store, in a folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devtools.bundles import FILES, make_bundle
from devtools.services.seaweedfs import S3Server
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import MANIFEST_NAME
from registry.ledger.artifact_uris import BundleUri, parse_artifact_uri
from registry.store.folder import FolderStore
from registry.store.measurements import add_measurements, read_measurements
from registry.store.protocol import Blob, Store, blob_path
from registry.store.s3 import S3Store
from registry.store.uris import open_store
from targets.errors import BundleError, StoreError
from targets.progress import Event, Notice, Step
from tests.support.folders import contents
from tests.support.measurements import BUNDLE, measurement
from tests.support.s3 import BUCKET

MIB = 1 << 20


def overwrite(store: Store, digest: str, change: Callable[[bytes], bytes]) -> None:
    """Change a blob behind the store's back."""
    with store.open_blob(digest) as source:
        content = change(source.read())
    if isinstance(store, FolderStore):
        path = Path(store.location_of(digest))
        path.chmod(0o644)
        path.write_bytes(content)
    else:
        assert isinstance(store, S3Store)
        store._client.put_object(**store._object(blob_path(digest)), Body=content)


def blob_of(content: bytes) -> Blob:
    return Blob("sha256:" + hashlib.sha256(content).hexdigest(), len(content))


@pytest.mark.parametrize("name", [".DS_Store", ""])
def test_what_other_tools_keep_among_the_blobs_is_no_blob(any_store: Store, bundle: Bundle, name: str) -> None:
    """A file manager's or a network file system's own files, and the folders that S3's consoles make."""
    any_store.add_bundle(bundle)
    there = set(any_store.blobs())
    folder = blob_path(bundle.digest).rpartition("/")[0]
    if isinstance(any_store, FolderStore):
        (any_store.root / folder / (name or "a folder")).mkdir()
    else:
        assert isinstance(any_store, S3Store)
        any_store._client.put_object(**any_store._object(f"{folder}/{name}"), Body=b"")
    assert set(any_store.blobs()) == set(any_store.aged(0)) == there


def test_a_new_store_is_named_once(any_store: Store, bundle: Bundle) -> None:
    """Its place may be a misspelt one."""
    events: list[Event] = []
    store = open_store(any_store.uri, on_progress=events.append)
    store.check_writable()
    store.check_writable()
    store.add_bundle(bundle)
    assert events == [Notice(f"a new store: {any_store.uri}")]
    open_store(any_store.uri, on_progress=events.append).check_writable()
    assert len(events) == 1


def test_a_bundle_comes_out_as_it_went_in(bundle: Bundle, any_store: Store, tmp_path: Path) -> None:
    any_store.check_writable()
    assert not any_store.has_bundle(bundle.digest)
    assert any_store.add_bundle(bundle) == bundle.digest
    out = any_store.materialise(bundle.digest, tmp_path / "out")
    assert contents(out.path) == contents(bundle.path)
    verify(open_bundle(out.path))
    assert any_store.has_bundle(bundle.digest)
    assert any_store.manifest(bundle.digest) == bundle.manifest
    sizes = {f"sha256:{entry.sha256}": entry.bytes for entry in bundle.manifest.files}
    sizes[bundle.digest] = len(bundle.manifest.to_bytes())
    assert {blob.digest: blob.bytes for blob in any_store.blobs()} == sizes


def test_it_is_found_again_by_its_uri(bundle: Bundle, any_store: Store) -> None:
    any_store.add_bundle(bundle)
    parsed = parse_artifact_uri(any_store.bundle_uri(bundle.digest))
    assert parsed == BundleUri(any_store.uri, bundle.digest)
    assert open_store(any_store.uri).has_bundle(bundle.digest)
    assert open_store(any_store.uri).uri == any_store.uri


def test_a_second_bundle_brings_only_what_is_new(bundle: Bundle, any_store: Store, tmp_path: Path) -> None:
    any_store.add_bundle(bundle)
    before = {blob.digest for blob in any_store.blobs()}
    put: list[str] = []
    real = any_store.put

    def noting(source: io.BufferedReader, blob: Blob, *, what: str) -> None:
        put.append(blob.digest)
        real(source, blob, what=what)

    any_store.put = noting  # type: ignore[method-assign, assignment]
    other = make_bundle(tmp_path / "other", FILES | {"tokenizer.json": b"{ }"})
    any_store.add_bundle(other)
    assert len(put) == 2  # its tokenizer and its manifest
    assert not before & set(put)


def test_uploads_report_how_far_each_file_is(bundle: Bundle, any_store: Store) -> None:
    events: list[Event] = []
    sizes = {entry.path: entry.bytes for entry in bundle.manifest.files}
    sizes[MANIFEST_NAME] = len(bundle.manifest.to_bytes())
    for turn in range(2):
        events.clear()
        any_store.add_bundle(bundle, on_progress=events.append)
        steps = [event for event in events if isinstance(event, Step)]
        assert {(step.name, step.unit) for step in steps} == {("upload", "bytes")}
        for path, size in sizes.items():
            done = [step.done for step in steps if step.subject == path]
            assert done == sorted(done)
            assert done[-1] == size
            assert (done[0] == 0) == (turn == 0)  # the second time each is in the store already
            assert {step.total for step in steps if step.subject == path} == {size}


@pytest.mark.parametrize("at", [0, -1])
def test_a_changed_byte_is_refused(bundle: Bundle, any_store: Store, tmp_path: Path, at: int) -> None:
    any_store.add_bundle(bundle)

    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[at] ^= 1
        return bytes(changed)

    for blob in list(any_store.blobs()):
        overwrite(any_store, blob.digest, flip)
        with pytest.raises(StoreError, match="damaged"):
            any_store.materialise(bundle.digest, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        overwrite(any_store, blob.digest, flip)
    verify(any_store.materialise(bundle.digest, tmp_path / "out"))


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"x"])
def test_a_blob_of_another_size_is_no_blob_and_is_added_again(
    bundle: Bundle, any_store: Store, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    any_store.add_bundle(bundle)
    for blob in list(any_store.blobs()):
        overwrite(any_store, blob.digest, change)
        assert not any_store.has_bundle(bundle.digest)
        any_store.add_bundle(bundle)
        assert any_store.has_bundle(bundle.digest)
    verify(any_store.materialise(bundle.digest, tmp_path / "out"))


@pytest.mark.parametrize("size", [0, 10, 20 * MIB])
def test_what_is_not_the_blob_is_not_stored(any_store: Store, size: int) -> None:
    blob = Blob(blob_of(b"x" * size).digest, size)
    for wrong in (b"y" * size if size else b"y", b"x" * size + b"x", b"x" * (size - 1) if size else b"xx"):
        with pytest.raises(BundleError, match="the manifest says") as error:
            any_store.put(io.BytesIO(wrong), blob, what="model.gguf")
        assert "model.gguf" in str(error.value)
        assert any_store.blob_bytes(blob.digest) is None
    any_store.put(io.BytesIO(b"x" * size), blob, what="model.gguf")
    assert any_store.blob_bytes(blob.digest) == size


def test_a_large_blob_comes_back(any_store: Store, tmp_path: Path) -> None:
    content = b"".join(hashlib.sha256(number.to_bytes(4)).digest() * 16 for number in range(80_000))  # 41 MB
    blob = blob_of(content)
    any_store.put(io.BytesIO(content), blob, what="model.gguf")
    steps: list[Event] = []
    any_store.copy_out(blob.digest, tmp_path / "out", what="model.gguf", on_progress=steps.append)
    assert (tmp_path / "out").read_bytes() == content
    assert steps[-1] == Step("download", len(content), len(content), "bytes")
    assert len(steps) > 4
    with any_store.open_blob(blob.digest) as source:
        assert hashlib.file_digest(source, "sha256").hexdigest() == blob.digest[7:]


def test_adders_at_once_leave_one_whole_bundle(bundle: Bundle, any_store: Store, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: any_store.add_bundle(bundle), range(12))) == {bundle.digest}
    verify(any_store.materialise(bundle.digest, tmp_path / "out"))


def test_what_is_missing_is_said(any_store: Store) -> None:
    digest = blob_of(b"nothing").digest
    assert any_store.blob_bytes(digest) is None
    for ask in (any_store.open_blob, any_store.manifest):
        with pytest.raises(StoreError, match=r"no such folder|blob .* is missing") as error:
            ask(digest)
        assert any_store.uri.removeprefix("file://") in str(error.value)


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "../" * 5 + "etc/passwd", "md5:" + "a" * 64])
def test_a_digest_is_a_digest(any_store: Store, digest: str) -> None:
    with pytest.raises(StoreError, match="is not a digest"):
        any_store.blob_bytes(digest)


def test_a_document_is_written_only_over_what_its_writer_has_seen(any_store: Store) -> None:
    name = "metadata/timestamp.json"
    assert any_store.read_document(name) is None
    assert not any_store.write_document(name, b"one", replacing='"0123456789abcdef0123456789abcdef"')
    assert any_store.write_document(name, b"one", replacing=None)
    assert not any_store.write_document(name, b"two", replacing=None)
    first = any_store.read_document(name)
    assert first is not None
    assert any_store.write_document(name, b"two", replacing=first.tag)
    assert not any_store.write_document(name, b"three", replacing=first.tag)
    there = any_store.read_document(name)
    assert there is not None
    assert there.content == b"two"


def test_of_writers_at_once_one_succeeds(any_store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: any_store.write_document("a/b.json", b"%d" % n, replacing=None), range(8)))
    assert sum(won) == 1
    there = any_store.read_document("a/b.json")
    assert there is not None
    assert there.content == b"%d" % won.index(True)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: any_store.write_document("a/b.json", b"x%d" % n, replacing=there.tag), range(8)))
    assert sum(won) == 1


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "metadata/../../x", "blobs/sha256/aa/a", "a//b", "staging/x"]
)
def test_a_document_stays_in_the_store(any_store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="is not a document's name"):
        any_store.write_document(name, b"", replacing=None)
    with pytest.raises(StoreError, match="is not a document's name"):
        any_store.read_document(name)


def test_prefixes_of_a_bucket_are_stores_of_their_own(s3_store: S3Store, bundle: Bundle) -> None:
    s3_store.add_bundle(bundle)
    assert list(S3Store(BUCKET, s3_store.prefix + " too").blobs()) == []
    assert not S3Store(BUCKET, s3_store.prefix.rpartition("/")[0]).has_bundle(bundle.digest)


def test_the_server_is_asked_for_what_a_store_needs(s3_server: S3Server, s3_store: S3Store) -> None:
    s3_store.check_writable()
    assert s3_server.client().list_objects_v2(Bucket=BUCKET, Prefix=s3_store.prefix).get("KeyCount") == 0


def test_measurements_of_a_bundle_are_kept_and_survive_a_sweep(any_store: Store) -> None:
    first, second = measurement(12.0), measurement(13.0)
    assert add_measurements(any_store, BUNDLE, [first]) == 1
    assert add_measurements(any_store, BUNDLE, [first, second]) == 1
    any_store.sweep(0, dry_run=False)
    assert len(read_measurements(any_store, BUNDLE)) == 2
    assert list(any_store.blobs()) == []
