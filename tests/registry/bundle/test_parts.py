"""Parts: what is cut joins to the same bytes, whatever the sizes; what is missing or changed is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.bundle.parts import INDEX_NAME, join, split
from targets.errors import BuildError, BundleError, PhipackError
from tests.support.folders import contents, flip, names_in

SIZE = 10_000
WEIGHTS = bytes(range(256)) * 100


@pytest.fixture
def large(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "large", {"model.gguf": WEIGHTS, "a/tokenizer.json": b"{}" * 2000, "empty": b""})


@pytest.fixture
def parts(large: Bundle, tmp_path: Path) -> Path:
    split(large, tmp_path / "parts", SIZE)
    return tmp_path / "parts"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 6000), min_size=1, max_size=5),
    limit=st.integers(4000, 12_000),
)
def test_what_was_split_joins_again(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int) -> None:
    folder = tmp_path_factory.mktemp("parts")
    files = {f"folder-{number}/file": bytes([number]) * size for number, size in enumerate(sizes)}
    bundle = make_bundle(folder / "bundle", files)
    made = split(bundle, folder / "parts", limit)
    assert names_in(folder / "parts") == sorted(part.path.name for part in made)
    for part in made:
        assert part.bytes == sum(path.stat().st_size for path in part.path.rglob("*") if path.is_file()) <= limit
    assert sum(part.bytes for part in made[:-1]) >= (len(made) - 1) * (limit - 300)  # full, but for the index
    joined = join(folder / "parts", folder / "joined", digest=bundle.digest)
    assert contents(joined.path) == contents(bundle.path)


def test_small_files_are_whole_in_the_first_part_and_large_ones_follow(large: Bundle, parts: Path) -> None:
    assert names_in(parts) == ["part-1", "part-2", "part-3", "part-4"]
    first = contents(parts / "part-1")
    assert first["bundle/a/tokenizer.json"] == b"{}" * 2000
    assert first["bundle/manifest.json"] == large.manifest.to_bytes()
    raw = b"".join((parts / f"part-{number}/bundle/model.gguf").read_bytes() for number in range(1, 5))
    assert raw == WEIGHTS
    index = json.loads(first[INDEX_NAME])
    assert index["bundle"] == large.digest
    pieces = [piece for piece in index["pieces"] if piece["path"] == "model.gguf"]
    assert [piece["part"] for piece in pieces] == [1, 2, 3, 4]
    assert [piece["offset"] for piece in pieces][1:] == [
        sum(piece["bytes"] for piece in pieces[:count]) for count in range(1, 4)
    ]


def test_a_bundle_that_fits_is_one_part(large: Bundle, tmp_path: Path) -> None:
    (part,) = split(large, tmp_path / "parts", 1_500_000_000)
    assert contents(part.path / "bundle") == contents(large.path)
    verify(join(tmp_path / "parts", tmp_path / "out"))


def test_splitting_again_gives_the_same_bytes(large: Bundle, parts: Path, tmp_path: Path) -> None:
    split(large, tmp_path / "again", SIZE)
    assert contents(tmp_path / "again") == contents(parts)


@pytest.mark.parametrize("limit", [0, 1, 20, 1000])
def test_parts_that_are_too_small_are_refused(large: Bundle, tmp_path: Path, limit: int) -> None:
    with pytest.raises(BuildError, match=f"parts of {limit} bytes are too small"):
        split(large, tmp_path / "parts", limit)
    assert names_in(tmp_path) == ["large"]


@pytest.mark.parametrize("damage", ["changed", "shorter", "longer", "gone"])
def test_a_damaged_bundle_is_not_split(large: Bundle, tmp_path: Path, damage: str) -> None:
    path = large.file("model.gguf")
    if damage == "gone":
        path.unlink()
    elif damage == "changed":
        flip(path, 20_000)
    else:
        path.write_bytes(WEIGHTS[:-1] if damage == "shorter" else WEIGHTS + b"x")
    with pytest.raises(BundleError, match=r"model\.gguf"):
        split(large, tmp_path / "parts", SIZE)
    assert names_in(tmp_path) == ["large"]


def test_what_is_there_is_replaced_only_if_asked(large: Bundle, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exists already"):
        split(large, parts, SIZE)
    assert len(split(large, parts, 2 * SIZE, replace=True)) == 2
    assert names_in(parts) == ["part-1", "part-2"]
    join(parts, tmp_path / "out")
    with pytest.raises(BuildError, match="exists already"):
        join(parts, tmp_path / "out")
    join(parts, tmp_path / "out", replace=True)


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def edited(parts: Path) -> None:
        path = parts / "part-1" / INDEX_NAME
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))

    return edited


def _piece(**values: object) -> Callable[[Path], object]:
    return _edit(lambda content: content["pieces"][-1].update(values))  # type: ignore[index]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, "part-1/parts.json can't be read"),
    "the first part is missing": (lambda parts: shutil.rmtree(parts / "part-1"), "part-1/parts.json can't be read"),
    "a part is missing": (lambda parts: shutil.rmtree(parts / "part-3"), "part 3 of 4 is missing"),
    "a piece is missing": (lambda parts: (parts / "part-3/bundle/model.gguf").unlink(), "part 3 has no readable"),
    "a byte is changed": (lambda parts: flip(parts / "part-2/bundle/model.gguf", 99), "of part 2 was changed"),
    "a piece is cut": (lambda parts: (parts / "part-2/bundle/model.gguf").write_bytes(b"x"), "ends 9999 bytes early"),
    "a piece is longer": (
        lambda parts: (parts / "part-2/bundle/model.gguf").write_bytes(WEIGHTS),
        "of part 2 was changed",
    ),
    "the manifest is changed": (lambda parts: flip(parts / "part-1/bundle/manifest.json", 30), "was changed"),
    "no JSON": (lambda parts: (parts / "part-1" / INDEX_NAME).write_text("{"), "not an index of schema"),
    "another schema": (_edit(lambda content: content.update(schema="phipack.parts/2")), "not an index of schema"),
    "another bundle": (_edit(lambda content: content.update(bundle="sha256:" + "0" * 64)), "is not the one of"),
    "a piece too few": (_edit(lambda content: content["pieces"].pop()), "are .* bytes, not 25600"),  # type: ignore[attr-defined]
    "a gap": (_piece(offset=5), "has no piece for byte"),
    "a file too many": (_piece(path="../../secret"), "is in its manifest or its pieces"),
    "no manifest": (_edit(lambda content: content["pieces"].pop(0)), "no manifest.json"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", DAMAGE)
def test_parts_that_are_not_whole_are_not_joined(parts: Path, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(parts)
    with pytest.raises(BundleError, match=message) as caught:
        join(parts, tmp_path / "out")
    assert isinstance(caught.value, PhipackError)
    assert caught.value.fix
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".phipack*"))


def test_parts_of_two_splits_are_not_joined(large: Bundle, parts: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", {"model.gguf": WEIGHTS[::-1], "a/tokenizer.json": b"[]", "empty": b""})
    split(other, tmp_path / "others", SIZE)
    shutil.copytree(tmp_path / "others" / "part-2", parts / "part-2", dirs_exist_ok=True)
    with pytest.raises(BundleError, match="part 2"):
        join(parts, tmp_path / "out")
    with pytest.raises(BundleError, match="joins to bundle sha256:"):
        join(tmp_path / "others", tmp_path / "out", digest=large.digest)
    verify(open_bundle(large.path))
