"""Manifests and bundle folders: what is refused, and that verifying sees every change."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from devtools.bundles import make_bundle
from registry.bundle.chunks import CHUNK_BYTES_LIMIT, Chunk
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.manifest import (
    MANIFEST_BYTES_LIMIT,
    MANIFEST_NAME,
    AdapterEntry,
    BudgetEntry,
    CalibrationEntry,
    ExactContext,
    FileEntry,
    GenerationEntry,
    Manifest,
    ModelEntry,
    RecipeEntry,
    WeightClass,
    merged_digest,
)
from registry.bundle.recipe import recipe_of
from registry.files.digests import digest_of_bytes
from targets.errors import BundleError
from targets.recipes import RECIPES


def test_a_sealed_bundle_opens_and_verifies(bundle: Bundle) -> None:
    again = open_bundle(bundle.path)
    assert again == bundle
    assert again.digest == bundle.digest
    verify(again)
    assert again.manifest.total_bytes == sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())


def test_a_calibration_is_in_the_manifest_and_none_is_not(bundle: Bundle, tmp_path: Path) -> None:
    assert b"calibration" not in bundle.manifest.to_bytes()
    entry = CalibrationEntry(level="full", text="sha256:" + "a" * 64, tokens=16_384)
    calibrated = make_bundle(tmp_path / "calibrated", calibration=entry)
    assert open_bundle(calibrated.path).manifest.recipe.calibration == entry
    assert json.loads(calibrated.manifest.to_bytes())["recipe"]["calibration"] == {
        "level": "full",
        "text": "sha256:" + "a" * 64,
        "tokens": 16_384,
    }


@pytest.mark.parametrize(
    "entry",
    [
        {"level": "none", "text": "sha256:" + "a" * 64, "tokens": 1},
        {"level": "light", "text": "a text", "tokens": 1},
        {"level": "light", "text": "sha256:" + "a" * 64, "tokens": -1},
        {"level": "light", "text": "sha256:" + "a" * 64},
    ],
)
def test_a_calibration_of_another_form_is_refused(bundle: Bundle, entry: dict[str, Any]) -> None:
    recipe = json.loads(bundle.manifest.to_bytes())["recipe"]
    (bundle.path / MANIFEST_NAME).write_bytes(changed(bundle, recipe=recipe | {"calibration": entry}))
    with pytest.raises(BundleError, match="not a bundle manifest"):
        open_bundle(bundle.path)


MATRIX = {"name": "lm_head.weight", "storage": "Q6_K", "bytes": 210, "sensitivity": 0.5, "cost": 0.015}
BUDGET = {"asked": "4.5 bits", "bytes": 1000, "matrices": [MATRIX]}


def test_a_budget_is_in_the_manifest_and_none_is_not(bundle: Bundle) -> None:
    content = json.loads(bundle.manifest.to_bytes())
    assert "budget" not in content["recipe"]
    (bundle.path / MANIFEST_NAME).write_bytes(changed(bundle, recipe=content["recipe"] | {"budget": BUDGET}))
    found = open_bundle(bundle.path).manifest
    assert found.recipe.budget == BudgetEntry.model_validate(BUDGET)
    assert json.loads(found.to_bytes())["recipe"]["budget"] == BUDGET


@pytest.mark.parametrize(
    "entry",
    [
        BUDGET | {"bytes": -1},
        BUDGET | {"matrices": [MATRIX | {"sensitivity": -0.1}]},
        BUDGET | {"matrices": [MATRIX | {"cost": float("nan")}]},
        BUDGET | {"kind": "bits"},
        {"asked": "4.5 bits", "bytes": 1000},
    ],
)
def test_a_budget_of_another_form_is_refused(bundle: Bundle, entry: dict[str, Any]) -> None:
    recipe = json.loads(bundle.manifest.to_bytes())["recipe"]
    (bundle.path / MANIFEST_NAME).write_bytes(changed(bundle, recipe=recipe | {"budget": entry}))
    with pytest.raises(BundleError, match="not a bundle manifest"):
        open_bundle(bundle.path)


def test_a_kv_cache_is_in_the_manifest_and_the_default_is_not(bundle: Bundle, tmp_path: Path) -> None:
    assert "kv_cache" not in json.loads(bundle.manifest.to_bytes())["recipe"]
    found = open_bundle(make_bundle(tmp_path / "quantized", recipe="gguf-f16", kv_cache="q8_0").path).manifest
    assert json.loads(found.to_bytes())["recipe"]["kv_cache"] == "q8_0"
    assert recipe_of(found) == replace(RECIPES["gguf-f16"], kv_cache="q8_0")


@pytest.mark.parametrize("entry", ["q8_0; reboot", "$(id)", "Q8_0", "q" * 17, None, 8])
def test_a_kv_cache_that_no_command_should_have_is_refused(bundle: Bundle, entry: object) -> None:
    recipe = json.loads(bundle.manifest.to_bytes())["recipe"]
    (bundle.path / MANIFEST_NAME).write_bytes(changed(bundle, recipe=recipe | {"kv_cache": entry}))
    with pytest.raises(BundleError, match="not a bundle manifest"):
        open_bundle(bundle.path)


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
        *(
            "manifest.json",
            "a.",
            "a ",
            "a./b",
            "con",
            "CON.txt",
            "x/aux",
            "nul.json",
            "com1",
            "LPT\u00b9",
            "conin$",
            "ConOut$.txt",
            "\u202ea",
            "/".join("a" * 33),
            "a" * 256,
            "é" * 128,
            "/".join(["a" * 200] * 6),
        ),
    ],
)
def test_paths_that_could_leave_the_bundle_are_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="unsafe path"):
        FileEntry(path=path, bytes=0, sha256="0" * 64)


@pytest.mark.parametrize(
    "names",
    [
        ("a", "A"),
        ("a", "a/b"),
        ("é", "e\u0301"),
        ("x/a", "X/A"),
        ("a", "a"),
        ("Manifest.json",),
        ("manifest.json/a",),
    ],
)
def test_names_that_collide_somewhere_are_refused(bundle: Bundle, names: tuple[str, ...]) -> None:
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


@pytest.mark.parametrize(("name", "fix"), [("bundel", "did you mean 'bundle'?"), ("x", "name a folder that phipack ")])
def test_a_folder_that_is_not_there_may_be_a_misspelt_one(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(BundleError, match=f"{name} is not a bundle: there is no such folder") as caught:
        open_bundle(tmp_path / name)
    assert caught.value.fix.startswith(fix)


# --- laws


def names_of(parts: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Paths of one or two parts that a manifest takes together."""
    return st.lists(st.lists(parts, min_size=1, max_size=2).map("/".join), max_size=5).filter(are_taken)


def are_taken(names: list[str]) -> bool:
    try:
        Manifest._no_collisions([FileEntry(path=name, bytes=0, sha256="0" * 64) for name in names])
    except (ValidationError, ValueError):
        return False
    return True


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest: files with chunks or without, texts in any script, contexts or none."""
    files = []
    for name in draw(names_of(st.sampled_from(["a", "b.c", "weights", "é", "模型", "A-1", "x y"]))):
        chunks = tuple(
            Chunk(bytes=size, sha256=draw(st.sampled_from("0af")) * 64)
            for size in draw(st.lists(st.integers(1, CHUNK_BYTES_LIMIT), max_size=3))
        )
        size = sum(chunk.bytes for chunk in chunks) if chunks else draw(st.integers(0, 1 << 45))
        files.append(FileEntry(path=name, bytes=size, sha256=draw(st.sampled_from("0af")) * 64, chunks=chunks))
    count, text = st.integers(0, 1 << 40), st.text(max_size=8)
    contexts = st.builds(ExactContext, open_with=count, first=count, last=count)
    model = st.builds(
        ModelEntry,
        **{name: text if name == "architecture" else count for name in ModelEntry.model_fields if name[:6] != "exact_"},
        exact_context_length=count,
        exact_contexts=st.lists(contexts, max_size=2),
    )
    weights = st.lists(st.builds(WeightClass, storage=text, tensors=count, bytes=count), max_size=2)
    base, adapter = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    merged_from = draw(st.none() | st.just(AdapterEntry(base=base, adapter=adapter)))
    return Manifest(
        schema="phipack.bundle/1",
        model=draw(model),
        recipe=draw(st.builds(RecipeEntry, weights=weights, name=text, notes=st.lists(text, max_size=2))),
        checkpoint="sha256:" + "c" * 64 if merged_from is None else merged_digest(base, adapter),
        merged_from=merged_from,
        generation=draw(
            st.builds(
                GenerationEntry,
                stop_token_ids=st.lists(count, max_size=3),
                bos_token_id=st.none() | count,
                pad_token_id=st.none() | count,
                chat_template=st.none() | text,
            )
        ),
        tools=draw(st.dictionaries(text, text, max_size=2)),
        files=files,
    )


def test_a_merge_that_is_not_that_of_base_and_adapter_is_refused(bundle: Bundle) -> None:
    base, adapter = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    manifest = bundle.manifest.model_copy(
        update={"checkpoint": merged_digest(base, adapter), "merged_from": AdapterEntry(base=base, adapter=adapter)}
    )
    assert Manifest.parse(manifest.to_bytes(), source="here") == manifest
    swapped = manifest.model_copy(update={"merged_from": AdapterEntry(base=adapter, adapter=base)})
    with pytest.raises(BundleError, match="checkpoint is not the digest of base and adapter"):
        Manifest.parse(swapped.to_bytes(), source="here")


def test_a_bundle_without_an_adapter_keeps_its_digest(bundle: Bundle) -> None:
    """The field is left out of the JSON: bundles that were built before it was known are the same bundles."""
    assert "merged_from" not in json.loads(bundle.manifest.to_bytes())


@given(manifests())
def test_a_manifest_survives_its_bytes(manifest: Manifest) -> None:
    raw = manifest.to_bytes()
    assert Manifest.parse(raw, source="here") == manifest
    assert Manifest.parse(raw, source="here").digest == manifest.digest == digest_of_bytes(raw)


@given(manifests(), st.data())
def test_a_changed_manifest_is_refused_or_another_bundle(manifest: Manifest, data: st.DataObject) -> None:
    """No two texts are one bundle: whatever is changed, and is still read, has its own digest."""
    raw = manifest.to_bytes()
    at = data.draw(st.integers(0, len(raw) - 1))
    change = data.draw(st.sampled_from(["flip", "drop", "double", "insert"]))
    piece = raw[at : at + data.draw(st.integers(1, 12))]
    middle = {
        "flip": bytes([piece[0] ^ data.draw(st.integers(1, 255))]) + piece[1:],
        "drop": b"",
        "double": piece + piece,
        "insert": data.draw(st.binary(min_size=1, max_size=4)) + piece,
    }[change]
    changed = raw[:at] + middle + raw[at + len(piece) :]
    try:
        read = Manifest.parse(changed, source="here")
    except BundleError:
        return
    assert read.to_bytes() == changed
    assert (read.digest == manifest.digest) == (changed == raw)


@given(
    st.lists(
        st.text(st.sampled_from("aA\u00e9E\u0301\ufb01fi\u017fs\u00dfS/.\u0131I\u0130i"), min_size=1, max_size=4),
        min_size=2,
        max_size=3,
    )
)
@example(["I", "\u0131"])
def test_files_that_are_taken_together_lie_apart_on_every_disk(names: list[str]) -> None:
    """No two are one where letters' case, or their composition, does not count; none is another one's folder."""
    try:
        files = Manifest._no_collisions([FileEntry(path=name, bytes=0, sha256="0" * 64) for name in names])
    except (ValidationError, ValueError):
        return
    for fold in (str.casefold, str.lower, str.upper):
        for form in ("NFC", "NFD"):
            seen = [unicodedata.normalize(form, fold(unicodedata.normalize(form, file.path))) for file in files]
            assert len(set(seen)) == len(seen), (names, fold, form)
            assert not any(a.startswith(b + "/") for a in seen for b in seen)


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_sizes_beyond_64_bits_are_refused_by_their_key(bundle: Bundle, digits: int) -> None:
    raw = changed(bundle, files=[{"path": "a", "bytes": 7777777, "sha256": "0" * 64}])
    with pytest.raises(BundleError, match=f"bytes: an integer of {digits} digits"):
        Manifest.parse(raw.replace(b"7777777", b"1" * digits), source="manifest")
