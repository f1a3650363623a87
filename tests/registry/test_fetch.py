"""Fetch by path, URL and reference: the whole bundle, verified, or nothing."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import MANIFEST_NAME
from registry.fetch import Resolver, fetch
from registry.ledger.ledger import Ledger
from registry.ledger.reader import open_reader, resolve_in
from registry.ledger.registration import Registration
from registry.store.folder import FolderStore
from registry.transfer import partial as partial_module
from registry.transfer.bundle_download import DownloadOptions
from registry.transfer.download import TransferStatistics
from registry.transfer.partial import PARTIAL_MARK
from targets.errors import BuildError, FetchError, PhipackError, RegistryError, StoreError
from targets.references import Reference, Version
from tests.support.databases import Databases, KeptRegistry, keep_registry
from tests.support.folders import contents, flip, names_in

pytestmark = pytest.mark.usefixtures("local_and_impatient")


# --- by path


def test_a_folder_is_fetched(bundle: Bundle, out: Path) -> None:
    fetched = fetch(str(bundle.path), out).bundle
    assert contents(out) == contents(bundle.path)
    assert fetched.digest == bundle.digest
    assert fetched.path == out


def test_all_who_fetch_the_same_at_once_have_it(bundle: Bundle, out: Path, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    digest = store.add_bundle(bundle)

    def one(number: int) -> str:
        if number % 2:
            return store.download(digest, out)[0].digest
        return fetch(str(bundle.path), out).bundle.digest

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [digest] * 8
    verify(open_bundle(out))
    assert names_in(out.parent) == ["out"]


def test_a_partial_folder_that_goes_while_it_is_looked_at_is_made(
    bundle: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has received the same, and removes its folder between our two looks at it."""
    partial = out.parent / f"{PARTIAL_MARK}{bundle.digest.removeprefix('sha256:')[:16]}-{out.name}"
    partial.mkdir(parents=True)
    look, gone = partial_module.require_own_folder, list[Path]()

    def vanish(folder: Path, **how: bool) -> os.stat_result:
        if not gone:
            gone.append(folder)
            folder.rmdir()
        return look(folder, **how)

    monkeypatch.setattr(partial_module, "require_own_folder", vanish)
    fetch(str(bundle.path), out)
    assert gone == [partial]
    verify(open_bundle(out))


def test_a_relative_folder_is_fetched(bundle: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.path.parent)
    for source in ("bundle", "./bundle", "bundle/"):
        fetch(source, out)
        shutil.rmtree(out)


@pytest.mark.parametrize("name", ["model.gguf", "tokenizer.json", "model.mlpackage/Data/weights.bin", MANIFEST_NAME])
def test_a_changed_byte_in_a_folder_is_refused(bundle: Bundle, out: Path, name: str) -> None:
    path = bundle.file(name)
    flip(path, path.stat().st_size // 2)
    with pytest.raises(FetchError, match=path.name):
        fetch(str(bundle.path), out)
    assert names_in(out.parent) == []


def test_a_missing_file_or_folder_is_named(bundle: Bundle, out: Path) -> None:
    bundle.file("tokenizer.json").unlink()
    with pytest.raises(FetchError, match=r"tokenizer\.json can't be read"):
        fetch(str(bundle.path), out)
    with pytest.raises(FetchError, match="is not a bundle"):
        fetch(str(out), out)
    assert names_in(out.parent) == []


def test_another_digest_than_the_asked_one_is_refused(bundle: Bundle, out: Path) -> None:
    fetch(str(bundle.path), out, DownloadOptions(digest=bundle.digest))
    shutil.rmtree(out)
    with pytest.raises(FetchError, match="is bundle sha256:"):
        fetch(str(bundle.path), out, DownloadOptions(digest="sha256:" + "0" * 64))
    assert names_in(out.parent) == []


# --- what is there already


def test_the_same_bundle_is_done_at_once_and_another_is_refused(bundle: Bundle, out: Path, tmp_path: Path) -> None:
    fetch(str(bundle.path), out)
    before = {path: path.stat().st_ino for path in out.rglob("*")}
    fetch(str(bundle.path), out)
    assert {path: path.stat().st_ino for path in out.rglob("*")} == before
    other = make_bundle(tmp_path / "other", {"model.gguf": b"other"})
    with pytest.raises(BuildError, match="holds another bundle"):
        fetch(str(other.path), out)
    assert contents(out) == contents(bundle.path)
    fetch(str(other.path), out, DownloadOptions(replace=True))
    assert contents(out) == contents(other.path)


def test_a_damaged_copy_is_replaced_only_on_request(bundle: Bundle, out: Path) -> None:
    fetch(str(bundle.path), out)
    flip(out / "model.gguf", 3)
    with pytest.raises(BuildError, match=r"model\.gguf: content differs") as caught:
        fetch(str(bundle.path), out)
    assert caught.value.fix is not None
    assert "--replace" in caught.value.fix
    fetch(str(bundle.path), out, DownloadOptions(replace=True))
    verify(open_bundle(out))


def test_what_is_no_bundle_is_never_replaced(bundle: Bundle, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_bytes(b"years of work")
    for replace in (False, True):
        with pytest.raises(BuildError, match="is not a bundle"):
            fetch(str(bundle.path), out, DownloadOptions(replace=replace))
    assert contents(out) == {"thesis.tex": b"years of work"}
    shutil.rmtree(out)
    out.write_bytes(b"a file")
    with pytest.raises(BuildError, match="is not a bundle"):
        fetch(str(bundle.path), out, DownloadOptions(replace=True))
    out.unlink()
    out.mkdir()
    fetch(str(bundle.path), out)


# --- by reference


NEWER, SPECIAL = {"model.gguf": b"newer"}, {"model.gguf": b"for pixel"}


def register_four(ledger: Ledger, home: Path) -> None:
    """phi 1.0.0 and 1.1.0 of two cells; production stands at 1.0.0."""
    bundle, newer = make_bundle(home / "bundle"), make_bundle(home / "newer", NEWER)
    special = make_bundle(home / "special", SPECIAL)
    for version, cell, given in (
        ("1.0.0", "iphone-15", bundle),
        ("1.0.0", "pixel-9", bundle),
        ("1.1.0", "iphone-15", newer),
        ("1.1.0", "pixel-9", special),
    ):
        ledger.store.add_bundle(given)
        ledger.register(
            Registration("phi", Version.parse(version), cell, given.manifest, make_evidence(given, target=cell))
        )
    for cell in ("iphone-15", "pixel-9"):
        ledger.point(f"phi.{cell}", "production", 1)


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("four"), register_four)


@pytest.fixture
def registered(databases: Databases, kept: KeptRegistry, bundle: Bundle, tmp_path: Path) -> Ledger:
    """What `register_four` makes, and its bundles in the test's folder."""
    make_bundle(tmp_path / "newer", NEWER)
    make_bundle(tmp_path / "special", SPECIAL)
    return kept.again(databases, tmp_path / "home")


def folder_of(ledger: Ledger) -> FolderStore:
    assert isinstance(ledger.store, FolderStore)
    return ledger.store


def resolver_of(ledger: Ledger) -> Resolver:
    return functools.partial(resolve_in, open_reader(ledger.uri, ledger.store))


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("phi:1.0.0@iphone-15", "bundle"),
        ("phi:production@pixel-9", "bundle"),
        ("phi@pixel-9", "bundle"),
        ("phi:^1.0@iphone-15", "newer"),
        ("phi:~1@pixel-9", "special"),
        ("phi:1.0.0", "bundle"),  # both cells share it
    ],
)
def test_references_are_fetched(registered: Ledger, out: Path, tmp_path: Path, reference: str, name: str) -> None:
    fetched = fetch(reference, out, resolver=resolver_of(registered))
    assert contents(out) == contents(tmp_path / name)
    assert fetched.bundle.digest == open_bundle(tmp_path / name).digest
    assert fetched.reference is not None
    assert Reference.parse(fetched.reference).version is not None
    assert fetched.statistics == TransferStatistics()


def test_a_reference_without_cell_that_names_several_bundles_is_refused(registered: Ledger, out: Path) -> None:
    with pytest.raises(FetchError, match=r"phi:1\.1\.0@iphone-15") as caught:
        fetch("phi:1.1.0", out, resolver=resolver_of(registered))
    assert "pixel-9" in caught.value.problem


def test_a_changed_byte_anywhere_in_the_store_is_refused(registered: Ledger, out: Path) -> None:
    store = folder_of(registered)
    fetcher = functools.partial(fetch, resolver=resolver_of(registered))
    bundle = store.manifest(registered.versions("phi")[0].digest)
    for digest in [f"sha256:{entry.sha256}" for entry in bundle.files] + [bundle.digest]:
        path = Path(store.location_of(digest))
        flip(path, path.stat().st_size // 2)
        with pytest.raises(StoreError, match="damaged") as caught:
            fetcher("phi:1.0.0@iphone-15", out)
        assert "phi:1.0.0@iphone-15" in str(caught.value)
        assert names_in(out.parent) == []
        flip(path, path.stat().st_size // 2)
    fetcher("phi:1.0.0@iphone-15", out)


def test_a_moved_store_is_found_by_option(registered: Ledger, out: Path, tmp_path: Path) -> None:
    store = folder_of(registered)
    store.root.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="no such folder"):
        fetch("phi:1.0.0@iphone-15", out, resolver=resolver_of(registered))
    moved = FolderStore(tmp_path / "moved")
    fetch("phi:1.0.0@iphone-15", out, resolver=resolver_of(registered), store=moved)
    verify(open_bundle(out))


def test_without_the_bundle_in_the_store_the_recorded_one_is_used(
    registered: Ledger, out: Path, tmp_path: Path
) -> None:
    empty = FolderStore(tmp_path / "empty")
    fetch("phi:1.0.0@iphone-15", out, resolver=resolver_of(registered), store=empty)
    verify(open_bundle(out))


def test_what_matches_nothing_is_reported(registered: Ledger, out: Path, bundle: Bundle) -> None:
    fetcher = functools.partial(fetch, resolver=resolver_of(registered))
    with pytest.raises(RegistryError, match="did you mean 'iphone-15'"):
        fetcher("phi:1.0.0@iphone-14", out)
    with pytest.raises(FetchError, match="neither a reference"):
        fetcher("No Such Thing", out)
    with pytest.raises(FetchError, match="no registry"):
        fetch("phi:1.0.0@iphone-15", out)
    with pytest.raises(FetchError, match="is bundle"):
        fetcher("phi:1.0.0@iphone-15", out, DownloadOptions(digest="sha256:" + "0" * 64))
    assert names_in(out.parent) == []


def test_a_fetch_by_reference_imports_nothing_heavy(registered: Ledger, out: Path) -> None:
    script = """
import functools, sys
from pathlib import Path
from registry.fetch import fetch
from registry.ledger.reader import open_reader, resolve_in
from registry.store.uris import open_store
store = open_store(sys.argv[2])
resolver = functools.partial(resolve_in, open_reader(sys.argv[1], store))
fetch("phi:production@iphone-15", Path(sys.argv[3]), resolver=resolver)
assert not {"mlflow", "sqlalchemy", "numpy", "torch"} & sys.modules.keys()
"""
    command = [sys.executable, "-c", script, registered.uri, registered.store.uri, str(out)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
    verify(open_bundle(out))


def test_a_full_disk_is_reported_before_downloading(bundle: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(PhipackError, match=r"0\.00 GB left"):
        fetch(str(bundle.path), out)
    assert names_in(out.parent) == []
