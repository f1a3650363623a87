"""The store: what goes in comes out, byte for byte or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devtools.bundles import FILES, make_bundle
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import MANIFEST_NAME
from registry.files.staging import STAGING_MARK
from registry.ledger.artifact_uris import BundleUri, parse_artifact_uri
from registry.store.folder import FolderStore
from registry.store.protocol import Blob
from registry.store.uris import open_store
from targets.errors import BuildError, BundleError, StoreError
from tests.support.folders import contents, flip, names_in

names = st.from_regex(r"[a-z]{1,3}(/[x-z]{1,2}\.bin)?", fullmatch=True)


def blob_files(store: FolderStore) -> list[Path]:
    return sorted(path for path in (store.root / "blobs").rglob("*") if path.is_file())


def test_a_bundle_comes_out_as_it_went_in(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    digest = store.add_bundle(bundle)
    assert digest == bundle.digest
    out = store.materialise(digest, tmp_path / "out")
    assert out.path == tmp_path / "out"
    assert contents(out.path) == contents(bundle.path)
    verify(open_bundle(out.path))
    assert store.has_bundle(digest)
    assert store.manifest(digest) == bundle.manifest


def test_blobs_are_read_only_and_named_by_content(bundle: Bundle, store: FolderStore) -> None:
    store.add_bundle(bundle)
    expected = {entry.sha256 for entry in bundle.manifest.files} | {bundle.digest.removeprefix("sha256:")}
    assert {path.name for path in blob_files(store)} == expected
    assert {blob.digest.removeprefix("sha256:") for blob in store.blobs()} == expected
    assert {stat.S_IMODE(path.stat().st_mode) for path in blob_files(store)} == {0o444}


def test_the_store_is_no_link_to_the_users_file(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    store.add_bundle(bundle)
    (bundle.path / "model.gguf").write_bytes(b"changed in place")
    verify(store.materialise(bundle.digest, tmp_path / "out"))


def test_what_is_there_is_not_written_again(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    store.add_bundle(bundle)
    before = {path: path.stat().st_ino for path in blob_files(store)}
    other = make_bundle(tmp_path / "other", FILES | {"tokenizer.json": b"{ }"})
    store.add_bundle(other)
    store.add_bundle(bundle)
    after = {path: path.stat().st_ino for path in blob_files(store)}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2  # the other's tokenizer and manifest


@pytest.mark.parametrize("at", [0, -1])
def test_a_changed_byte_in_any_blob_is_refused(bundle: Bundle, store: FolderStore, tmp_path: Path, at: int) -> None:
    store.add_bundle(bundle)
    for path in blob_files(store):
        flip(path, at)
        with pytest.raises(StoreError, match="damaged") as caught:
            store.materialise(bundle.digest, tmp_path / "out")
        assert str(path) in str(caught.value)
        assert names_in(tmp_path) == ["bundle", "store"]
        flip(path, at)
    verify(store.materialise(bundle.digest, tmp_path / "out"))


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b""])
def test_a_blob_of_another_size_is_refused_and_repaired_by_adding(
    bundle: Bundle, store: FolderStore, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    store.add_bundle(bundle)
    for path in blob_files(store):
        path.chmod(0o644)
        path.write_bytes(change(path.read_bytes()))
        assert not store.has_bundle(bundle.digest)
        with pytest.raises(StoreError, match="damaged"):
            store.materialise(bundle.digest, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        store.add_bundle(bundle)
        assert store.has_bundle(bundle.digest)


def test_a_damaged_blob_names_the_file_and_the_fix_works(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    store.add_bundle(bundle)
    entry = next(entry for entry in bundle.manifest.files if entry.path == "model.gguf")
    flip(Path(store.location_of("sha256:" + entry.sha256)), 5)
    with pytest.raises(StoreError, match=r"model\.gguf") as caught:
        store.materialise(bundle.digest, tmp_path / "out")
    assert caught.value.fix is not None
    command = caught.value.fix.split(" && ")[0]
    subprocess.run(command.split(), check=True)
    assert not store.has_bundle(bundle.digest)
    store.add_bundle(bundle)
    verify(store.materialise(bundle.digest, tmp_path / "out"))


def test_a_missing_blob_or_bundle_is_named(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        store.materialise(bundle.digest, tmp_path / "out")
    store.add_bundle(bundle)
    with pytest.raises(StoreError, match="blob sha256:" + "0" * 64 + " is missing"):
        store.materialise("sha256:" + "0" * 64, tmp_path / "out")
    missing = bundle.manifest.files[0].sha256
    Path(store.location_of("sha256:" + missing)).unlink()
    with pytest.raises(StoreError, match=missing):
        store.materialise(bundle.digest, tmp_path / "out")
    assert not store.has_bundle(bundle.digest)
    assert names_in(tmp_path) == ["bundle", "store"]


@pytest.mark.parametrize("digest", ["", "sha256:", "../../etc/passwd", "sha256:" + "A" * 64, "sha256:../" + "a" * 61])
def test_only_digests_are_looked_up(store: FolderStore, digest: str) -> None:
    with pytest.raises(StoreError, match="not a digest"):
        store.blob_bytes(digest)


def test_a_bundle_that_was_changed_is_not_added(bundle: Bundle, store: FolderStore) -> None:
    (bundle.path / "tokenizer.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        store.add_bundle(bundle)
    assert not store.has_bundle(bundle.digest)
    assert list((store.root / "staging").iterdir()) == []
    (bundle.path / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer.json can't be read"):
        store.add_bundle(bundle)


def test_a_manifest_that_is_not_one_is_refused(store: FolderStore, tmp_path: Path) -> None:
    from registry.files.digests import digest_of_bytes

    raw = b'{"schema": "phipack.bundle/1"}'
    (tmp_path / "raw").write_bytes(raw)
    with (tmp_path / "raw").open("rb") as source:
        store.put(source, Blob(digest_of_bytes(raw), len(raw)), what="raw")
    with pytest.raises(BundleError, match="not a bundle manifest"):
        store.materialise(digest_of_bytes(raw), tmp_path / "out")


def test_a_store_below_a_file_is_refused_before_work(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FolderStore(tmp_path / "file" / "store")
    with pytest.raises(StoreError) as caught:
        store.check_writable()
    assert caught.value.fix
    with pytest.raises(StoreError):
        store.add_bundle(bundle)


def test_a_read_only_store_is_refused_before_work(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        forbidden = Path("/sys/phipack")  # modes don't bind root; the kernel's own folder does
    else:
        forbidden = tmp_path / "store"
        tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="can't be written"):
        FolderStore(forbidden).check_writable()
    tmp_path.chmod(0o755)


def test_a_writable_store_stays_as_it_was(store: FolderStore) -> None:
    store.check_writable()
    assert blob_files(store) == []


def test_what_exists_is_not_overwritten(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    store.add_bundle(bundle)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    with pytest.raises(BuildError, match="exists already"):
        store.materialise(bundle.digest, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"mine"}
    store.materialise(bundle.digest, tmp_path / "out", replace=True)
    verify(open_bundle(tmp_path / "out"))


def _add(folder: Path, root: Path, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    FolderStore(root).add_bundle(open_bundle(folder))


def test_two_processes_add_the_same_bundle(tmp_path: Path, store: FolderStore) -> None:
    bundle = make_bundle(tmp_path / "big", {f"part{i}": os.urandom(1 << 20) for i in range(4)})
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    adders = [context.Process(target=_add, args=(bundle.path, store.root, barrier)) for _ in range(2)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    assert [adder.exitcode for adder in adders] == [0, 0]
    verify(store.materialise(bundle.digest, tmp_path / "out"))
    assert list((store.root / "staging").iterdir()) == []


_KILLED = """
import signal

# A shell that starts a job in the background has it ignore interrupts, and so all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys, time
from pathlib import Path
from registry.bundle.folder import open_bundle
from registry.store.folder import FolderStore

class Slow(FolderStore):
    def put(self, source, blob, *, what):
        class Trickle:
            def read(self, count):
                print("reading", flush=True)
                time.sleep(0.01)
                return source.read(100)
        super().put(Trickle(), blob, what=what)

    def open_blob(self, digest):
        source = super().open_blob(digest)
        class Trickle:
            def __enter__(self): return self
            def __exit__(self, *_): source.close()
            def read(self, count):
                print("reading", flush=True)
                time.sleep(0.01)
                return source.read(min(count, 100) if count < 1 << 21 else count)
            def readinto(self, buffer):
                piece = self.read(100)
                buffer[:len(piece)] = piece
                return len(piece)
        return Trickle()

store = Slow(Path(sys.argv[2]))
if sys.argv[3] == "add":
    store.add_bundle(open_bundle(Path(sys.argv[1])))
else:
    store.materialise(open_bundle(Path(sys.argv[1])).digest, Path(sys.argv[3]))
"""


def _kill_in_the_middle(*arguments: str, signal_number: int = signal.SIGKILL) -> int:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        process.send_signal(signal_number)
        return process.wait()


def test_a_killed_adder_leaves_nothing_that_counts(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    assert _kill_in_the_middle(str(bundle.path), str(store.root), "add") == -signal.SIGKILL
    assert len(list((store.root / "staging").iterdir())) == 1
    assert not store.has_bundle(bundle.digest)
    store.add_bundle(bundle)
    assert list((store.root / "staging").iterdir()) == []
    verify(store.materialise(bundle.digest, tmp_path / "out"))


def test_a_killed_fetch_is_swept_by_the_next(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    store.add_bundle(bundle)
    place = tmp_path / "place" / "out"
    assert _kill_in_the_middle(str(bundle.path), str(store.root), str(place)) == -signal.SIGKILL
    assert [name.startswith(STAGING_MARK) for name in names_in(place.parent)] == [True]
    verify(store.materialise(bundle.digest, place))
    assert names_in(place.parent) == ["out"]


def test_an_interrupted_fetch_leaves_nothing(bundle: Bundle, store: FolderStore, tmp_path: Path) -> None:
    store.add_bundle(bundle)
    place = tmp_path / "place" / "out"
    assert _kill_in_the_middle(str(bundle.path), str(store.root), str(place), signal_number=signal.SIGINT) != 0
    assert names_in(place.parent) == []


def test_a_foreign_machines_staging_is_left_alone(bundle: Bundle, store: FolderStore) -> None:
    store.check_writable()
    foreign = store.root / "staging" / "00000000-999999-abc"
    foreign.write_bytes(b"being written elsewhere")
    store.add_bundle(bundle)
    assert foreign.exists()


@pytest.mark.parametrize("name", ["store", "with space", "per%cent", "ü#?&=+"])
def test_a_store_is_found_again_by_its_uri(bundle: Bundle, tmp_path: Path, name: str) -> None:
    store = FolderStore(tmp_path / name)
    digest = store.add_bundle(bundle)
    parsed = parse_artifact_uri(store.bundle_uri(digest))
    assert parsed == BundleUri(store.uri, digest)
    again = open_store(parsed.store)
    assert isinstance(again, FolderStore)
    assert again.root == store.root
    assert again.has_bundle(digest)


def test_a_store_behind_a_link_is_recorded_by_its_real_place(tmp_path: Path, store: FolderStore) -> None:
    """MLflow's server refuses a source that goes through a link."""
    store.check_writable()
    (tmp_path / "link").symlink_to(store.root)
    assert FolderStore(tmp_path / "link").uri == store.uri


def test_unknown_places_are_refused() -> None:
    with pytest.raises(StoreError, match="'gopher'"):
        open_store("gopher://bucket/prefix")
    for uri in ("file:///x/sha256:" + "0" * 64, "phipack-file:///x", "phipack-file:///x/sha256:abc"):
        with pytest.raises(StoreError, match="names neither a bundle"):
            parse_artifact_uri(uri)


@settings(max_examples=25, deadline=None)
@given(
    files=st.dictionaries(
        names,
        st.binary(max_size=3000),
        min_size=1,
        max_size=5,
    )
)
def test_any_bundle_survives_the_store(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folders = {name.split("/")[0] for name in files if "/" in name}
    files = {name: content for name, content in files.items() if name not in folders}
    folder = tmp_path_factory.mktemp("any")
    bundle = make_bundle(folder / "bundle", files)
    store = FolderStore(folder / "store")
    out = store.materialise(store.add_bundle(bundle), folder / "out")
    found = contents(out.path)
    del found[MANIFEST_NAME]
    assert found == files
    assert len(list(store.blobs())) == len(set(files.values())) + 1


def test_what_is_there_is_not_read_again(tmp_path: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "large", {"weights": bytes(1 << 20)})
    store.add_bundle(bundle)
    monkeypatch.setattr(FolderStore, "put", None)
    bundle.file("weights").unlink()
    assert store.add_bundle(bundle) == bundle.digest
