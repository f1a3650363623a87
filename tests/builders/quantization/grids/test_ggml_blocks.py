"""Codecs of ggml's blocks, held to two dequantizers that share no code with them: ggml's in C, and gguf's in numpy."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from builders.quantization.ggml_library import encode_rows
from builders.quantization.grids.ggml_blocks import CODECS
from targets.storage.gguf import TYPES
from tests.support import llama_cpp as llamacpp

KINDS = list(CODECS)


def random_blocks(kind: str, count: int = 400) -> NDArray[np.uint8]:
    """Any bytes, except that no scale is infinite or NaN."""
    raw = np.random.default_rng(1).integers(0, 256, (4 * count, TYPES[kind].bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(CODECS[kind].decode(raw)).all(axis=1)
    assert finite.sum() >= count
    return np.ascontiguousarray(raw[finite][:count])


def extreme_rows() -> NDArray[np.float32]:
    """Rows of 512: zeros, tiny, one outlier, equal, one sign, of many magnitudes, and ordinary ones."""
    generator = np.random.default_rng(2)
    ordinary = generator.normal(size=(8, 512)).astype(np.float32)
    rows = [np.zeros(512), ordinary[0] * 1e-40, ordinary[1] * 1e-7, np.full(512, 0.25), np.full(512, -3.0)]
    outlier = ordinary[2].copy()
    outlier[[7, 300]] = 500, -2000
    rows += [outlier, np.abs(ordinary[3]), -np.abs(ordinary[4]), ordinary[5] * np.logspace(-6, 4, 512)]
    return np.concatenate([np.asarray(rows), ordinary[6:]]).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_are_decoded_as_ggml_and_gguf_decode_them(kind: str) -> None:
    blocks = random_blocks(kind)
    found = CODECS[kind].decode(blocks)
    number = gguf.GGMLQuantizationType[kind]
    np.testing.assert_array_equal(found, gguf.quants.dequantize(blocks, number))
    np.testing.assert_array_equal(found, llamacpp.dequantize(blocks, kind).reshape(found.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_what_ggml_writes_is_decoded_and_encoded_again_to_the_byte(kind: str) -> None:
    codec, rows = CODECS[kind], extreme_rows()
    for importance in (None, np.linspace(0.01, 3, 512, dtype=np.float32)):
        blocks = encode_rows(rows, TYPES[kind], name="it", importance=importance).reshape(-1, TYPES[kind].bytes)
        np.testing.assert_array_equal(codec.decode(blocks).reshape(-1), llamacpp.dequantize(blocks, kind))
        codes = codec.codes(blocks)
        assert codes.max() < len(codec.levels)
        np.testing.assert_array_equal(codec.with_codes(blocks, codes), blocks)
        np.testing.assert_array_equal(codec.with_codes(codec.with_codes(blocks, codes * 0), codes), blocks)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_replaced_and_scales_kept(kind: str) -> None:
    codec, blocks = CODECS[kind], random_blocks(kind, 50)
    before = blocks.copy()
    codes = np.random.default_rng(3).integers(0, len(codec.levels), (50, codec.kind.length), dtype=np.uint8)
    changed = codec.with_codes(blocks, codes)
    np.testing.assert_array_equal(blocks, before)
    np.testing.assert_array_equal(codec.codes(changed), codes)
    for found, kept in zip(codec.scales(changed), codec.scales(before), strict=True):
        assert (found is None) == (kept is None)
        if found is not None and kept is not None:
            np.testing.assert_array_equal(found, kept)
