"""Safetensors headers and indexes: what contradicts itself is refused, whatever the bytes; nothing else is raised."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.checkpoint import open_checkpoint, shards
from builders.checkpoint.shards import MappedRows, MappedTensors, read_header, widen
from targets.errors import CheckpointError
from tests.support.cases import examples
from tests.support.checkpoints import Tiny, random_weights, write_json, write_tiny, write_weights

FUZZ = settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def safetensors(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated"),
        (b"\xff" * 8, "truncated"),
        ((1 << 30).to_bytes(8, "little") + b"{}", "truncated"),
        (safetensors(b"{"), "not valid JSON"),
        (safetensors(b"\xff\xff"), "not valid JSON"),
        (safetensors(b"[]"), "a JSON object was expected"),
        (safetensors(b"[" * 200_000), "not valid JSON"),
        (safetensors({"a": entry(0, 8)}, bytes(4)), "truncated or damaged"),
        (safetensors({"a": entry(0, 8)}, bytes(12)), "truncated or damaged"),
        (safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "'b' overlaps"),
        (safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "'b' leaves a gap"),
        (safetensors({"a": entry(0, 8, [3])}, bytes(8)), r"'a': 8 bytes for shape \[3\] of F32"),
        (safetensors({"a": entry(8, 0, [2])}, bytes(8)), "'a': -8 bytes"),
        (safetensors({"a": entry(0, 8, [-1, -2])}, bytes(8)), "whole numbers"),
        (safetensors({"a": entry(0, 8, [True, 2])}, bytes(8)), "whole numbers"),
        (safetensors({"a": {**entry(0, 8), "shape": "22"}}, bytes(8)), "whole numbers"),
        (safetensors({"a": {**entry(0, 8), "shape": [1 << 64, 0]}}, bytes(8)), "whole numbers"),
        (safetensors({"a": {**entry(0, 4), "shape": [1] * 70}}, bytes(4)), "4 bytes for shape"),
        (safetensors({"a": {**entry(0, 8), "data_offsets": [0, 4, 8]}}, bytes(8)), "malformed header entry"),
        (safetensors({"a": {"dtype": "F32"}}), "malformed header entry"),
        (safetensors({"a": 3}), "malformed header entry"),
        (safetensors({"a": entry(0, 8, dtype="F8_E4M3")}, bytes(8)), "'a' has dtype F8_E4M3"),
        (safetensors({"a": {**entry(0, 8), "dtype": ["F32"]}}, bytes(8)), "'a' has dtype"),
        (safetensors(b'{"a": 1, "b": 2, "a": 3}'), "'a' appears twice"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_header(file)
    assert str(file) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors can't be read: Is a directory"):
        read_header(tmp_path.joinpath("model.safetensors").mkdir() or tmp_path / "model.safetensors")


def test_bfloat16_widens_exactly() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(bits.shape, np.float32)
    widen(bits, "BF16", wide)
    np.testing.assert_array_equal(wide.view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "sharded", shards=3)


def index_of(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "model.safetensors.index.json"
    return path, json.loads(path.read_text("utf-8"))


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error_and_no_signal(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped page that the file no longer has ends the process by SIGBUS."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))
    (file,) = folder.glob("*.safetensors")
    checkpoint = open_checkpoint(folder)
    mapped, source = MappedTensors(checkpoint.stored_tensors), checkpoint.open_tensors()
    last = max(checkpoint.stored_tensors.values(), key=lambda one: one.stop)
    source.stored_tensor(last.name)
    monkeypatch.setattr(shards, "_MAPPED_BYTES", last.bytes // 2)
    pieces = mapped.pieces(last.name)
    next(pieces)
    rows = MappedRows(mapped, last.name)
    assert len(rows[:1]) == 1
    os.truncate(file, last.stop - 1)
    for read in (
        lambda: next(pieces),
        lambda: rows[:1],
        lambda: mapped.stored(last.name),
        lambda: source.stored_tensor(last.name),
        lambda: source.rows(last.name, np.array([0])),
        lambda: next(checkpoint.stored_rows(last.name, 0, 1)),
    ):
        with pytest.raises(CheckpointError, match=f"{last.name}' ends at {last.stop}: the file was cut short"):
            read()
    os.truncate(file, 0)
    with pytest.raises(CheckpointError, match="it is empty"):
        next(checkpoint.stored_rows(last.name, 0, 1))
    file.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        next(checkpoint.stored_rows(last.name, 0, 1))


def test_mapped_pieces_join_to_the_tensor(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = open_checkpoint(tiny_folder).stored_tensors
    mapped = MappedTensors(entries)
    monkeypatch.setattr(shards, "_MAPPED_BYTES", 1000)
    for name in entries:
        pieces = list(mapped.pieces(name))
        assert max(piece.nbytes for piece in pieces) <= 1000
        np.testing.assert_array_equal(np.concatenate(pieces), mapped.stored(name).reshape(-1))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard 'model-00002-of-00003\.safetensors' is missing"):
        open_checkpoint(sharded)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    weights = random_weights(Tiny().config())
    first = open_checkpoint(sharded).shard_files[0]
    names = [tensor.name for tensor in read_header(first)]
    twice = next(name for name in weights if name not in names)
    (sharded / "again").mkdir()
    write_weights(sharded / "again", {name: weights[name] for name in [*names, twice]})
    (sharded / "again" / "model.safetensors").rename(first)
    with pytest.raises(CheckpointError, match=f"tensor '{twice}' is in both"):
        open_checkpoint(sharded)


def test_an_index_that_points_to_the_wrong_shard_is_refused(sharded: Path) -> None:
    path, index = index_of(sharded)
    shards = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = next(
        shard for shard in shards if shard != index["weight_map"]["model.norm.weight"]
    )
    write_json(path, index)
    with pytest.raises(CheckpointError, match=r"the index puts tensor 'model\.norm\.weight' in"):
        open_checkpoint(sharded)


def test_an_index_that_leaves_a_tensor_out_is_refused(sharded: Path) -> None:
    path, index = index_of(sharded)
    del index["weight_map"]["model.norm.weight"]
    write_json(path, index)
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' is in .*, but not in the index"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a\x00.safetensors", "sub/x.safetensors"])
def test_an_index_that_leads_out_of_the_folder_is_refused(sharded: Path, shard: str) -> None:
    path, index = index_of(sharded)
    index["weight_map"]["model.norm.weight"] = shard
    write_json(path, index)
    with pytest.raises(CheckpointError, match=r"shard name|is missing"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("content", [b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b"nonsense"])
def test_a_malformed_index_is_refused(sharded: Path, content: bytes) -> None:
    path, _ = index_of(sharded)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        open_checkpoint(sharded)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["F32", "BF16"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8"]) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-4, 64), min_size=2, max_size=2) | json_values,
    },
)
headers = st.dictionaries(st.text(max_size=6), entries | json_values, max_size=4).map(
    lambda header: safetensors(json.dumps(header).encode())
)


def opens_or_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        tensors = read_header(file)
    except CheckpointError as error:
        str(error).encode()  # a message that can't be printed is no message
        return
    mapped = MappedTensors({tensor.name: tensor for tensor in tensors})
    for tensor in tensors:
        assert 8 <= tensor.start <= tensor.stop <= len(content)
        assert mapped.stored(tensor.name).shape == tensor.shape


@FUZZ
@given(content=st.binary(max_size=200) | headers)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    opens_or_is_refused(tmp_path / "model.safetensors", content)


@FUZZ
@given(header=headers, data=st.binary(max_size=64))
def test_any_header_before_any_data_is_read_or_refused(tmp_path: Path, header: bytes, data: bytes) -> None:
    opens_or_is_refused(tmp_path / "model.safetensors", header + data)


@FUZZ
@given(place=st.integers(0, 2000), bits=st.integers(1, 255))
def test_a_flipped_header_byte_is_read_or_refused(tiny_folder: Path, tmp_path: Path, place: int, bits: int) -> None:
    content = bytearray((tiny_folder / "model.safetensors").read_bytes())
    content[place] ^= bits
    opens_or_is_refused(tmp_path / "model.safetensors", bytes(content))


@FUZZ
@given(family=st.sampled_from(["phi3", "llama", "phi3small"]), data=st.data(), value=json_values)
def test_any_value_in_the_config_is_taken_or_refused(
    sharded: Path, family: str, data: st.DataObject, value: Any
) -> None:
    config = Tiny(family=family, original_context=None if family == "llama" else 64).config()
    config[data.draw(st.sampled_from(sorted(config)))] = value
    (sharded / "config.json").write_text(json.dumps(config), "utf-8")
    try:
        open_checkpoint(sharded)
    except CheckpointError as error:
        str(error).encode()
