"""A disk that is really full, and what an attacker who may write next to the destination has planted there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.servers import RangeHandler, serving
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import MANIFEST_NAME
from registry.fetch import fetch
from registry.store.folder import FolderStore
from registry.transfer.bundle_download import DownloadOptions
from registry.transfer.partial import PARTIAL_MARK
from targets.errors import BuildError, PhipackError
from tests.support.folders import contents, names_in
from tests.support.strangers import as_root, shared, strangers

_LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"  # Python ignores SIGXFSZ
    "from phipack.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Larger than the disk of these tests."""
    return make_bundle(tmp_path_factory.mktemp("large") / "bundle", {"a": b"small", "model.gguf": bytes(3 << 20)})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a disk is root's")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_reported_and_left_as_it_was(large: Bundle, small_disk: Path) -> None:
    store = FolderStore(small_disk / "store")
    with pytest.raises(PhipackError, match="no space left") as caught:
        store.add_bundle(large)
    assert caught.value.fix is not None
    assert list((small_disk / "store" / "staging").iterdir()) == []
    for source in (str(large.path), None):
        with serving(large.path, kind=RangeHandler) as url, pytest.raises(PhipackError, match=r"GB left|no space left"):
            fetch(source or url, small_disk / "out")
        assert [path.name for path in small_disk.iterdir()] == ["store"]
    small = make_bundle(small_disk / "small", {"a": b"small"})
    assert store.has_bundle(store.add_bundle(small))


def test_a_files_limit_is_met_in_the_middle_of_a_write(large: Bundle, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path), "no_proxy": "*"}
    with serving(large.path, kind=RangeHandler) as url:
        for source in (str(large.path), url):
            done = subprocess.run(
                [sys.executable, "-c", _LIMITED, "fetch", source, "-o", "out"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert "no space left" in done.stderr
            assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of somebody else's, which links lead to."""
    folder = tmp_path / "precious"
    folder.mkdir()
    for name in ("0", "1", "lock", "kept"):
        (folder / name).write_bytes(b"precious")
    return folder


def test_links_in_a_partial_folder_are_not_written_through(bundle: Bundle, precious: Path, tmp_path: Path) -> None:
    before = contents(precious)
    place = tmp_path / "place"
    partial = place / f"{PARTIAL_MARK}{bundle.digest.removeprefix('sha256:')[:16]}-out"
    partial.mkdir(parents=True)
    for name in ("0", "lock"):
        (partial / name).symlink_to(precious / name)
    (partial / "1").hardlink_to(precious / "1")
    with serving(bundle.path, kind=RangeHandler) as url:
        fetch(url, place / "out")
    verify(open_bundle(place / "out"))
    assert contents(precious) == before


def test_a_link_for_a_partial_folder_is_not_followed(bundle: Bundle, precious: Path, tmp_path: Path) -> None:
    before = contents(precious)
    place = tmp_path / "place"
    place.mkdir()
    (place / f"{PARTIAL_MARK}{bundle.digest.removeprefix('sha256:')[:16]}-out").symlink_to(precious)
    (place / f"{PARTIAL_MARK}{'0' * 16}-out").symlink_to(precious)
    with serving(bundle.path, kind=RangeHandler) as url:
        fetch(url, place / "out")
    verify(open_bundle(place / "out"))
    assert contents(precious) == before


@as_root
def test_a_partial_folder_that_a_stranger_made_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """They would have its files open, and could change them once they are verified."""
    place = shared(tmp_path / "place")
    partial = place / f"{PARTIAL_MARK}{bundle.digest.removeprefix('sha256:')[:16]}-out"
    partial.mkdir()
    partial.chmod(0o777)
    strangers(partial)
    with serving(bundle.path, kind=RangeHandler) as url, pytest.raises(BuildError, match="belongs to user"):
        fetch(url, place / "out")
    assert names_in(place) == [partial.name]


@as_root
def test_a_partial_file_that_a_stranger_planted_is_not_continued(bundle: Bundle, tmp_path: Path) -> None:
    place = shared(tmp_path / "place")
    partial = place / f"{PARTIAL_MARK}{bundle.digest.removeprefix('sha256:')[:16]}-out"
    partial.mkdir(mode=0o777)
    partial.chmod(0o777)  # as a lenient umask would have left it
    planted, lenient = strangers_file(partial / "0"), partial / "1"
    lenient.write_bytes(b"")
    lenient.chmod(0o666)
    with planted.open("r+b") as kept_open, lenient.open("r+b") as also:
        with serving(bundle.path, kind=RangeHandler) as url:
            fetch(url, place / "out")
        for handle in (kept_open, also):
            handle.write(b"changed after it was verified")
    verify(open_bundle(place / "out"))


def strangers_file(path: Path) -> Path:
    path.write_bytes(b"")
    path.chmod(0o666)
    return strangers(path)


@as_root
def test_a_bundle_that_a_stranger_put_there_is_not_taken(bundle: Bundle, tmp_path: Path) -> None:
    place = shared(tmp_path / "place")
    fetch(str(bundle.path), place / "out")
    assert fetch(str(bundle.path), place / "out").bundle.digest == bundle.digest
    strangers(place / "out")
    for source in (str(bundle.path), None):
        with serving(bundle.path, kind=RangeHandler) as url, pytest.raises(BuildError, match="everybody may write"):
            fetch(source or url, place / "out")


def test_what_is_received_is_its_owners_alone(bundle: Bundle, tmp_path: Path) -> None:
    seen: list[int] = []

    def look(_: object) -> None:
        (partial,) = (path for path in tmp_path.iterdir() if path.name.startswith(PARTIAL_MARK))
        seen.append(partial.stat().st_mode & 0o777)

    mask = os.umask(0)
    try:
        with serving(bundle.path, kind=RangeHandler) as url:
            fetch(url, tmp_path / "out", on_progress=look)
    finally:
        os.umask(mask)
    assert set(seen) == {0o700}


def test_a_link_at_the_destination_is_replaced_not_followed(bundle: Bundle, precious: Path, tmp_path: Path) -> None:
    before = contents(precious)
    out = tmp_path / "out"
    out.symlink_to(precious)
    with pytest.raises(PhipackError, match="not a bundle"):
        fetch(str(bundle.path), out, DownloadOptions(replace=True))
    (precious / MANIFEST_NAME).write_bytes(make_bundle(tmp_path / "other", {"x": b"x"}).manifest.to_bytes())
    before[MANIFEST_NAME] = (precious / MANIFEST_NAME).read_bytes()
    fetch(str(bundle.path), out, DownloadOptions(replace=True))
    assert not out.is_symlink()
    verify(open_bundle(out))
    assert contents(precious) == before


def test_links_in_a_store_are_read_as_any_blob_and_verified(bundle: Bundle, precious: Path, tmp_path: Path) -> None:
    before = contents(precious)
    store = FolderStore(tmp_path / "store")
    digest = store.add_bundle(bundle)
    blob = Path(store.location_of(f"sha256:{bundle.manifest.files[0].sha256}"))
    blob.unlink()
    blob.symlink_to(precious / "kept")
    with pytest.raises(PhipackError, match="damaged"):
        store.materialise(digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    store.add_bundle(bundle)  # the fix: it is added again, in the link's place
    store.materialise(digest, tmp_path / "out")
    assert contents(precious) == before
