"""Importance matrices: what llama.cpp's tools would read and write, and files that must be refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.quantization.calibration.imatrix import read_imatrix, write_imatrix
from builders.quantization.calibration.imatrix_file import read_means
from builders.reference.statistics import Statistics, multiplied
from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.errors import CalibrationError, UnsupportedModelError
from tests.support.cases import examples
from tests.support.checkpoints import Tiny

PHI3 = read_architecture(Tiny().config())
LLAMA = read_architecture(Tiny(family="llama", tied=True).config())


def squares_of(architecture: Architecture) -> Statistics:
    generator, shapes = np.random.default_rng(0), architecture.tensor_shapes()
    return {name: generator.exponential(size=shapes[name][1]).astype(np.float32) for name in multiplied(architecture)}


def write(path: Path, architecture: Architecture = PHI3, squares: Statistics | None = None) -> Path:
    squares = squares_of(architecture) if squares is None else squares
    write_imatrix(path, squares, architecture, token_count=700, window_length=256, datasets=["mix"])
    return path


@pytest.mark.parametrize("architecture", [PHI3, LLAMA], ids=["phi3", "llama"])
def test_what_is_written_is_read_back(architecture: Architecture, tmp_path: Path) -> None:
    squares = squares_of(architecture)
    found = read_imatrix(write(tmp_path / "it.gguf", architecture), architecture)
    assert set(found) == set(squares)
    for name, means in squares.items():
        np.testing.assert_allclose(found[name], means, rtol=1e-6)


def test_the_file_is_laid_out_as_llama_imatrix_lays_it_out(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(write(tmp_path / "it.gguf", LLAMA))
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert keys == {
        "general.type": "imatrix",
        "imatrix.datasets": ["mix"],
        "imatrix.chunk_count": 2,
        "imatrix.chunk_size": 256,
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = {f"blk.{layer}.{part}.weight" for layer in range(2) for part in parts} | {"token_embd.weight"}
    assert set(tensors) == {f"{name}{suffix}" for name in names for suffix in (".in_sum2", ".counts")}
    assert all(tensor.tensor_type == gguf.GGMLQuantizationType.F32 for tensor in tensors.values())
    sums, counts = tensors["blk.1.ffn_down.weight.in_sum2"], tensors["blk.1.ffn_down.weight.counts"]
    assert (list(sums.shape), list(counts.data)) == ([128], [700])
    expected = squares_of(LLAMA)["model.layers.1.mlp.down_proj.weight"] * 700
    np.testing.assert_allclose(sums.data, expected, rtol=1e-6)


def test_the_head_may_be_missing_as_llama_imatrix_leaves_it_out(tmp_path: Path) -> None:
    squares = squares_of(PHI3)
    del squares["lm_head.weight"]
    assert set(read_imatrix(write(tmp_path / "it.gguf", PHI3, squares), PHI3)) == set(squares)


def legacy(entries: dict[str, Any], calls: int = 3) -> bytes:
    """The binary format, as llama.cpp's `save_imatrix_legacy` writes it."""
    raw = struct.pack("<i", len(entries))
    for name, means in entries.items():
        values = np.asarray(means, dtype="<f4") * calls
        raw += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values)) + values.tobytes()
    return raw + struct.pack("<ii", calls, 3) + b"mix"


def test_the_binary_format_of_older_releases_is_read(tmp_path: Path) -> None:
    path, squares = tmp_path / "imatrix.dat", squares_of(PHI3)
    stems = {"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up"}
    stems["mlp.down_proj"] = "ffn_down"
    entries = {
        f"blk.{layer}.{part}.weight": squares[f"model.layers.{layer}.{stem}.weight"]
        for layer in range(2)
        for stem, part in stems.items()
    }
    path.write_bytes(legacy(entries))
    found = read_imatrix(path, PHI3)
    assert len(found) == 8
    np.testing.assert_allclose(found["model.layers.1.mlp.gate_up_proj.weight"], entries["blk.1.ffn_up.weight"], 1e-6)


def _without(name: str) -> Callable[[Statistics], None]:
    def change(squares: Statistics) -> None:
        del squares[name]

    return change


def _with(name: str, place: int, value: float) -> Callable[[Statistics], None]:
    def change(squares: Statistics) -> None:
        squares[name][place] = value

    return change


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_without(DOWN), r"is another model's: blk\.1\.ffn_down\.weight is missing"),
        (_with(DOWN, 3, np.nan), r"blk\.1\.ffn_down\.weight has a value that is no mean of squares"),
        (_with(DOWN, 3, 2e30), r"blk\.1\.ffn_down\.weight has a value that is no mean of squares"),
        (_with(DOWN, 3, np.inf), r"blk\.1\.ffn_down\.weight has a value that is no mean of squares"),
        (_with(DOWN, 3, -1), r"blk\.1\.ffn_down\.weight has a value that is no mean of squares"),
    ],
)
def test_what_can_not_be_used_is_refused_by_name(
    change: Callable[[Statistics], None], problem: str, tmp_path: Path
) -> None:
    squares = squares_of(PHI3)
    change(squares)
    with pytest.raises(CalibrationError, match=problem) as refused:
        read_imatrix(write(tmp_path / "it.gguf", PHI3, squares), PHI3)
    assert "llama-imatrix" in refused.value.fix


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layers": 3}, r"blk\.2\.attn_output\.weight, blk\.2\.attn_qkv\.weight, .* and 1 more is not in this model"),
        ({"layers": 1}, r"blk\.1\.attn_output\.weight, .* is missing"),
        ({"intermediate": 256}, r"blk\.0\.ffn_down\.weight has 256 values; this model's has rows of 128 elements"),
        ({"family": "llama"}, r"is missing"),
    ],
)
def test_one_of_another_model_is_refused(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = write(tmp_path / "it.gguf", read_architecture(Tiny(**changes).config()))
    with pytest.raises(CalibrationError, match=problem):
        read_imatrix(path, PHI3)


def test_matrices_with_one_input_must_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "it.gguf", LLAMA)
    means = read_means(path)
    means["blk.0.attn_k.weight"] = means["blk.0.attn_k.weight"] * 2
    (tmp_path / "changed.dat").write_bytes(legacy(means))
    with pytest.raises(CalibrationError, match="differs from another matrix that is multiplied with the same values"):
        read_imatrix(tmp_path / "changed.dat", LLAMA)


def model_file(path: Path, **keys: Any) -> None:
    writer = gguf.GGUFWriter(path, "phi3")
    for add, value in keys.items():
        getattr(writer, add)(value)
    for name, values in (("blk.0.ffn_down.weight.in_sum2", np.ones(4)), ("blk.0.ffn_down.weight.counts", np.ones(2))):
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "it"
    model_file(path, add_type="model")
    with pytest.raises(CalibrationError, match="a GGUF of type 'model', not an importance matrix"):
        read_means(path)
    model_file(path)
    with pytest.raises(CalibrationError, match="2 counts: only a mixture of experts has more than one"):
        read_means(path)
    for content, problem in (
        (b"", "damaged"),
        (b"GGUF", "damaged"),
        (struct.pack("<i", -3), "-3 entries"),
        (legacy({"blk.0.ffn_down.weight": [1, 2]}, calls=0), "2 values from 0 calls"),
        (legacy({"blk.0.ffn_down.weight": [1, 2]})[:40], "damaged"),
        (struct.pack("<ii", 1, 2) + b"\xff\xfe", "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(CalibrationError, match=problem):
            read_means(path)
    with pytest.raises(CalibrationError, match="can't be read"):
        read_means(tmp_path / "missing")


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_refused_or_read_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, place: int, patch: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("whole.gguf", "whole.dat"):
        path = folder / name
        if not path.is_file():
            write(path) if name.endswith(".gguf") else path.write_bytes(legacy(read_means(folder / "whole.gguf")))
        raw = bytearray(path.read_bytes())
        place %= len(raw)
        raw[place : place + len(patch)] = patch
        (folder / "damaged").write_bytes(raw)
        with suppress(CalibrationError):
            found = read_imatrix(folder / "damaged", PHI3)
            assert all(np.isfinite(means).all() and means.min() >= 0 for means in found.values())


def test_phi_3_small_has_none(tmp_path: Path) -> None:
    small = read_architecture(Tiny(family="phi3small").config())
    with pytest.raises(UnsupportedModelError, match="no importance matrix"):
        write(tmp_path / "it.gguf", small)
