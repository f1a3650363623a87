"""gc: it removes what is of no use to anybody, and nothing that somebody is about to use."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.bundles import CHECKPOINT, make_bundle
from devtools.catalogs import Publisher, Rows
from registry.bundle.folder import Bundle
from registry.garbage import Collected, collect
from registry.store.actions import Action, ActionRecord, content_of, read_action, write_action
from registry.store.folder import FolderStore
from registry.store.protocol import Blob, Store
from registry.store.s3 import S3Store
from registry.store.s3_upload import PART_BYTES
from targets.errors import BundleError, RegistryError, StoreError

DAY_SECONDS = 86_400.0
GRACE_SECONDS = 1.0  # of the race


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has a release that is registered and one that was, both in its store."""
    made = Publisher(tmp_path / "publisher")
    made.release("1.0.0")
    made.release("1.1.0")
    return made


def forget(publisher: Publisher, release: str) -> None:
    publisher.registry.rows = [row for row in publisher.registry.rows if str(row.release) != release]


def age(store: FolderStore, seconds: float) -> None:
    then = time.time() - seconds
    for path in [*(store.root / "blobs").rglob("*"), *(store.root / "staging").rglob("*")]:
        if path.is_file():
            os.utime(path, (then, then))


def gc(publisher: Publisher, store: Store | None = None, *, dry_run: bool = False, hours: float = 24) -> Collected:
    return collect(store or publisher.store, publisher.registry, grace_seconds=hours * 3600, dry_run=dry_run)


def test_what_nobody_refers_to_is_removed(publisher: Publisher) -> None:
    age(publisher.store, 2 * DAY_SECONDS)
    forget(publisher, "1.1.0")
    digests = {blob.digest for blob in publisher.store.blobs()}
    planned = gc(publisher, dry_run=True)
    assert {blob.digest for blob in publisher.store.blobs()} == digests
    done = gc(publisher)
    assert done == planned
    assert len(done.removed) == 2
    assert done.kept == 2
    for row in publisher.registry.rows:
        assert publisher.store.has_bundle(row.digest)
    assert gc(publisher) == Collected((), 0, 2)


def test_what_two_bundles_share_stays_for_the_other(publisher: Publisher, tmp_path: Path) -> None:
    for version in ("2.0.0", "2.1.0"):
        publisher.release(version, {"model.gguf": b"shared", "own": version.encode()})
    age(publisher.store, 2 * DAY_SECONDS)
    forget(publisher, "2.1.0")
    gc(publisher)
    assert all(publisher.store.has_bundle(row.digest) for row in publisher.registry.rows)


def test_what_is_young_stays(publisher: Publisher) -> None:
    forget(publisher, "1.1.0")
    assert gc(publisher).removed == ()
    age(publisher.store, 2 * 3600)
    assert gc(publisher, hours=3).removed == ()
    assert len(gc(publisher, hours=1).removed) == 2


def test_what_a_release_finds_in_the_store_is_young_again(publisher: Publisher) -> None:
    bundle = make_bundle(publisher.folder / "again", {"model.gguf": b"1.1.0" * 1000})
    age(publisher.store, 2 * DAY_SECONDS)
    forget(publisher, "1.1.0")
    publisher.store.add_bundle(bundle)  # a release that has not registered it yet
    assert gc(publisher).removed == ()
    assert publisher.store.has_bundle(bundle.digest)


def test_what_a_catalog_names_stays(publisher: Publisher) -> None:
    publisher.place = publisher.store  # it is published in the store itself
    publisher.publish()
    age(publisher.store, 2 * DAY_SECONDS)
    publisher.registry.rows = []
    assert len(gc(publisher).removed) == 2  # 1.0.0, which was never published


def recorded(publisher: Publisher, digest: str | None, *, seconds: float) -> str:
    """Write a record of a bundle, or of the checkpoint, of an age; return its name."""
    kind: Action = "build" if digest else "checkpoint"
    key = hashlib.sha256(f"{digest}".encode()).hexdigest()[:32]
    record = ActionRecord(schema="phipack.action/1", action=kind, key=key, checkpoint=CHECKPOINT, bundle=digest)
    write_action(publisher.store, record)
    then = time.time() - seconds
    os.utime(publisher.store.root / record.document_name, (then, then))
    return record.document_name


def test_what_a_young_record_names_stays(publisher: Publisher) -> None:
    """As between the jobs of a matrix and the end of it."""
    bundle = next(row.digest for row in publisher.registry.rows if str(row.release) == "1.1.0")
    age(publisher.store, 2 * DAY_SECONDS)
    forget(publisher, "1.1.0")
    name = recorded(publisher, bundle, seconds=3600)
    done = gc(publisher)
    assert (done.removed, done.records, done.kept) == ((), 0, 4)
    assert publisher.store.has_bundle(bundle)
    assert list(publisher.store.documents("actions/")) == [name]


def calibrated(publisher: Publisher, *contents: bytes, seconds: float) -> str:
    """Write a record of a calibration with files of these contents, of an age; return its name."""
    files = {}
    for number, content in enumerate(contents):
        blob = Blob("sha256:" + hashlib.sha256(content).hexdigest(), len(content))
        publisher.store.put(io.BytesIO(content), blob, what="a test")
        files[f"{number}.moments"] = blob
    key = hashlib.sha256(repr(contents).encode()).hexdigest()[:32]
    content = content_of(files)
    record = ActionRecord(
        schema="phipack.action/1", action="calibrate", key=key, checkpoint=CHECKPOINT, content=content
    )
    write_action(publisher.store, record)
    assert read_action(publisher.store, "calibrate", key) == record
    then = time.time() - seconds
    os.utime(publisher.store.root / record.document_name, (then, then))
    return record.document_name


def test_what_builds_learn_from_stays_while_its_record_is_young(publisher: Publisher) -> None:
    young = calibrated(publisher, b"young", b"shared", seconds=3600)
    old = calibrated(publisher, b"old", b"shared", seconds=2 * DAY_SECONDS)
    age(publisher.store, 2 * DAY_SECONDS)
    before = {blob.digest for blob in publisher.store.blobs()}
    assert set(publisher.store.documents("actions/")) == {young, old}
    planned = gc(publisher, dry_run=True)
    assert {blob.digest for blob in publisher.store.blobs()} == before
    done = gc(publisher)
    assert done == planned
    assert [blob.digest for blob in done.removed] == ["sha256:" + hashlib.sha256(b"old").hexdigest()]
    assert done.records == 1
    assert set(publisher.store.documents("actions/")) == {young}
    assert gc(publisher, hours=0.5).records == 1


def test_a_record_goes_when_its_bundle_is_gone_and_the_checkpoints_with_the_last(publisher: Publisher) -> None:
    digests = {str(row.release): row.digest for row in publisher.registry.rows}
    age(publisher.store, 2 * DAY_SECONDS)
    forget(publisher, "1.1.0")
    names = [
        recorded(publisher, digest, seconds=2 * DAY_SECONDS) for digest in (digests["1.0.0"], digests["1.1.0"], None)
    ]
    junk = "actions/build/" + "e" * 32 + ".json"
    publisher.store.write_document(junk, b"junk", replacing=None)
    publisher.store.write_document("actions/notes.txt", b"not ours", replacing=None)
    planned = gc(publisher, dry_run=True)
    assert (len(planned.removed), planned.records) == (2, 1)
    assert gc(publisher) == planned
    left = {names[0], names[2], junk, "actions/notes.txt"}  # a release from the same checkpoint builds nothing again
    assert set(publisher.store.documents("actions/")) == left
    (publisher.store.root / names[0]).unlink()
    os.utime(publisher.store.root / junk, (0, 0))
    assert gc(publisher).records == 2  # what is damaged, and the checkpoint's
    assert list(publisher.store.documents("actions/")) == ["actions/notes.txt"]


def test_a_young_record_of_a_damaged_bundle_is_no_error(publisher: Publisher) -> None:
    recorded(publisher, "sha256:" + "0" * 64, seconds=0)
    assert gc(publisher) == Collected((), 0, 4)


def test_another_registrys_store_is_left_alone(publisher: Publisher) -> None:
    age(publisher.store, 2 * DAY_SECONDS)
    with pytest.raises(RegistryError, match="no version and no catalog refers to") as error:
        collect(publisher.store, Rows([]), grace_seconds=DAY_SECONDS)
    assert "--tracking-uri" in str(error.value)
    assert len(list(publisher.store.blobs())) == 4


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_manifest_that_nobody_can_read_stops_it(publisher: Publisher, harm: str) -> None:
    age(publisher.store, 2 * DAY_SECONDS)
    path = Path(publisher.store.location_of(publisher.registry.rows[0].digest))
    path.chmod(0o644)
    path.unlink() if harm == "missing" else path.write_bytes(b"{}")
    with pytest.raises(StoreError, match="nothing is removed"):
        gc(publisher)
    assert len(list(publisher.store.blobs())) == (3 if harm == "missing" else 4)


def test_versions_of_other_stores_do_not_stop_it(publisher: Publisher, tmp_path: Path) -> None:
    other = replace(publisher.registry.rows[0], store=f"file://{tmp_path}/other", digest="sha256:" + "0" * 64)
    publisher.registry.rows.append(other)
    age(publisher.store, 2 * DAY_SECONDS)
    assert gc(publisher).removed == ()


def test_an_empty_store_is_no_error(tmp_path: Path) -> None:
    assert collect(FolderStore(tmp_path), Rows([]), grace_seconds=DAY_SECONDS) == Collected((), 0, 0)


def test_leftovers_of_dead_writers_go_too(publisher: Publisher) -> None:
    (publisher.store.root / "staging" / "00000000-1-another-machine").write_bytes(b"x")
    assert gc(publisher).leftovers == 0
    age(publisher.store, 2 * DAY_SECONDS)
    assert gc(publisher, dry_run=True).leftovers == 1
    assert gc(publisher).leftovers == 1
    assert list((publisher.store.root / "staging").iterdir()) == []


def test_what_a_link_in_the_place_of_staging_leads_to_is_kept(publisher: Publisher, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"precious")
    os.utime(precious / "file", (0, 0))
    (publisher.store.root / "staging").rmdir()
    (publisher.store.root / "staging").symlink_to(precious)
    with pytest.raises(StoreError, match="a symbolic link, not a folder"):
        gc(publisher)
    with pytest.raises(StoreError, match="a symbolic link, not a folder"):
        publisher.store.check_writable()
    assert (precious / "file").read_bytes() == b"precious"


def _add_again_and_again(root: Path, bundle: Bundle, rounds: int, results: multiprocessing.Queue[bool]) -> None:
    store = FolderStore(root)
    for _ in range(rounds):
        store.add_bundle(bundle)
        results.put(store.has_bundle(bundle.digest))
        time.sleep(GRACE_SECONDS * 1.02)  # about when it is old


def test_beside_releases_in_other_processes_nothing_of_theirs_is_lost(publisher: Publisher) -> None:
    """They find old blobs, keep them, and look whether all is there, while gc removes what is old, again and again."""
    bundle = make_bundle(publisher.folder / "again", {"model.gguf": b"1.1.0" * 1000})
    forget(publisher, "1.1.0")
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[bool] = context.Queue()
    rounds, found = 4, []
    workers = [
        context.Process(target=_add_again_and_again, args=(publisher.store.root, bundle, rounds, results))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    removed = 0
    while len(found) < rounds * 2:
        for blob in list(publisher.store.blobs()):  # what gc does
            if blob.digest not in {row.digest for row in publisher.registry.rows}:
                removed += publisher.store.remove(blob.digest, seconds=GRACE_SECONDS)
        while not results.empty():
            found.append(results.get())
    for worker in workers:
        worker.join()
    assert all(found)
    assert removed


def test_on_s3_it_goes_by_the_servers_clock(s3_store: S3Store, tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    publisher.store = s3_store  # type: ignore[assignment]
    publisher.release("1.0.0")
    old = publisher.release("1.1.0")
    forget(publisher, "1.1.0")
    content = b"x" * (PART_BYTES + 1)
    with pytest.raises(BundleError):
        s3_store.put(Broken(content), Blob("sha256:" + hashlib.sha256(content).hexdigest(), len(content)), what="x")
    seconds = 2.0
    assert collect(s3_store, publisher.registry, grace_seconds=seconds + 60).removed == ()
    time.sleep(seconds + 1.1)  # S3's times are whole seconds
    s3_store.keep(old.digest)
    planned = collect(s3_store, publisher.registry, grace_seconds=seconds, dry_run=True)
    done = collect(s3_store, publisher.registry, grace_seconds=seconds)
    assert [blob.digest for blob in done.removed] == [f"sha256:{entry.sha256}" for entry in old.manifest.files]
    assert done.removed == planned.removed
    assert done.leftovers == planned.leftovers == 1
    assert not s3_store.has_bundle(old.digest)
    assert s3_store.has_bundle(publisher.registry.rows[0].digest)
    s3_store.add_bundle(old)
    assert s3_store.has_bundle(old.digest)


def test_a_publisher_whose_blob_goes_while_it_looks_adds_it(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc removes it between a publisher's two requests: is it there, and keep it."""
    content = b"hello"
    blob = Blob("sha256:" + hashlib.sha256(content).hexdigest(), len(content))
    s3_store.put(io.BytesIO(content), blob, what="x")
    real = s3_store.keep

    def keep(digest: str) -> bool:
        assert S3Store(s3_store.bucket, s3_store.prefix).remove(digest, seconds=-DAY_SECONDS)
        return real(digest)

    monkeypatch.setattr(s3_store, "keep", keep)
    s3_store.put(io.BytesIO(content), blob, what="x")
    assert s3_store.blob_bytes(blob.digest) == blob.bytes


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_what_another_user_added_can_be_released_again(bundle: Bundle) -> None:
    """Blobs are read-only, so their time is their owner's alone to set."""
    with tempfile.TemporaryDirectory() as name:
        store = FolderStore(Path(name) / "store")
        store.add_bundle(bundle)
        for path in (Path(name), *Path(name).rglob("*")):
            if path.is_dir() or path.name == "documents.lock":
                path.chmod(0o777)
        age(store, 2 * DAY_SECONDS)
        pid = os.fork()
        if pid == 0:  # no pytest here: the exit code says what happened
            os.setgid(65534)
            os.setuid(65534)
            kept = any(store.keep(blob.digest) for blob in store.blobs())
            for blob in list(store.blobs()):
                with store.open_blob(blob.digest) as source:
                    store.put(source, blob, what="x")
            os._exit(int(kept))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert list(store.aged(DAY_SECONDS)) == []
        assert store.has_bundle(bundle.digest)


class Broken(io.BytesIO):
    """A source that breaks."""

    def readinto(self, buffer: object) -> int:
        raise OSError(5, "Input/output error")
