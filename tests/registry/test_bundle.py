"""Manifests and bundle folders: what is refused, and that verifying sees every change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.bundle import MANIFEST_BYTES_LIMIT, MANIFEST_NAME, Bundle, FileEntry, Manifest, open_bundle, verify
from targets.errors import BundleError


def test_a_sealed_bundle_opens_and_verifies(bundle: Bundle) -> None:
    again = open_bundle(bundle.path)
    assert again == bundle
    assert again.digest == bundle.digest
    verify(again)
    assert again.manifest.total_bytes == sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize("change", [grow, flip, Path.unlink])
def test_every_changed_file_is_seen(bundle: Bundle, change: Callable[[Path], None]) -> None:
    for entry in bundle.manifest.files:
        path = bundle.file(entry.path)
        before = path.read_bytes()
        change(path)
        with pytest.raises(BundleError, match=path.name):
            verify(bundle)
        path.write_bytes(before)
    verify(bundle)


def test_a_file_too_many_is_seen(bundle: Bundle) -> None:
    (bundle.path / "model.mlpackage" / "extra").write_bytes(b"")
    with pytest.raises(BundleError, match="extra"):
        verify(bundle)


def test_links_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    bundle.file("tokenizer.json").rename(target)
    bundle.file("tokenizer.json").symlink_to(target)
    with pytest.raises(BundleError, match="plain files only"):
        verify(bundle)


def changed(bundle: Bundle, **changes: Any) -> bytes:
    content = json.loads(bundle.manifest.to_bytes()) | changes
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def test_a_manifest_of_another_form_is_refused(bundle: Bundle) -> None:
    good = bundle.manifest.to_bytes()
    for raw, words in (
        (b"", "not a bundle manifest"),
        (b"[]", "not a bundle manifest"),
        (b"\xff" + good, "not a bundle manifest"),
        (good + b"\n", "rewritten"),
        (good.replace(b"  ", b"\t"), "rewritten"),
        (changed(bundle, schema="phipack.bundle/2"), "schema"),
        (changed(bundle, surprise=1), "surprise"),
        (changed(bundle, files=[{"path": "a", "bytes": -1, "sha256": "0" * 64}]), "files"),
        (b" " * (MANIFEST_BYTES_LIMIT + 1), "limit"),
    ):
        with pytest.raises(BundleError, match=words):
            Manifest.parse(raw, source="manifest")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            ".",
            "..",
            "../a",
            "a/../b",
            "/a",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "C:a",
            "a:b",
            "a\0",
            "a\n",
            "manifest.json",
        ),
        *("manifest.json", "a.", "a ", "a./b", "con", "CON.txt", "x/aux", "nul.json", "com1", "\u202ea"),
    ],
)
def test_paths_that_could_leave_the_bundle_are_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="unsafe path"):
        FileEntry(path=path, bytes=0, sha256="0" * 64)


@pytest.mark.parametrize("names", [("a", "A"), ("a", "a/b"), ("é", "e\u0301"), ("x/a", "X/A"), ("a", "a")])
def test_names_that_collide_somewhere_are_refused(bundle: Bundle, names: tuple[str, str]) -> None:
    files = [{"path": name, "bytes": 0, "sha256": "0" * 64} for name in names]
    with pytest.raises(BundleError, match="files"):
        Manifest.parse(changed(bundle, files=files), source="manifest")


@given(st.text(max_size=12))
def test_an_accepted_path_stays_inside(path: str) -> None:
    try:
        FileEntry(path=path, bytes=0, sha256="0" * 64)
    except ValidationError:
        return
    root = Path("/root/bundle")
    assert (root / path).resolve().is_relative_to(root)
    assert (root / path).resolve() != root


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle") as caught:
        open_bundle(tmp_path)
    assert MANIFEST_NAME in str(caught.value)
    assert caught.value.fix
