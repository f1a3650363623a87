"""The compiled search: the same bytes as plain numpy, block by block, and the least error of all that is tried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from builders.coreml.quantize import TRIALS
from builders.onnx.quantize import _uncalibrated
from builders.quantization.grids.affine import CALIBRATED, Search
from builders.quantization.kernels.block_search import LANES, lanes_of, round_blocks, search
from targets.storage.onnx import Blocks

Floats = np.ndarray
TINY = np.finfo(np.float32).tiny
SEARCHES = {
    "calibrated": CALIBRATED,
    "coreml": Search(TRIALS),
    "onnx": _uncalibrated(Blocks(4, 32, zero_points=True)).search,
}
ONES = np.ones(32, np.float32)


def found(blocks: Floats, importance: Floats, tried: Search, top: int = 15) -> Floats:
    result = np.full((2, len(blocks)), np.float32(77))
    lanes = lanes_of(importance, blocks.shape[1])
    search(blocks, lanes, np.array(tried.trials, np.float32), np.float32(top), tried.centred, result)
    return result


def plainly(block: Floats, importance: Floats, tried: Search, top: int = 15) -> tuple[np.float32, np.float32]:
    """Search one block, step by step as the docstrings say, in float32 and with sums from the first element on."""
    one, top = np.float32(1), np.float32(top)
    low, high = min(block.min(), np.float32(0)), max(block.max(), np.float32(0))
    spread = high - low
    plain = inverse(spread / top)
    gain, scale, zero, width = np.float32(-1 if tried.centred else 0), np.float32(0), np.float32(0), one
    for share, shift in tried.trials:
        own = np.float32(share) if share else width
        if tried.centred:
            step = inverse(spread * own)
            middle = top / 2 - (high + low) * np.float32(0.5) * step
        else:
            step, middle = plain / own, -low * plain
        centre = np.clip(np.rint(middle) + np.float32(shift), np.float32(0), top)
        codes = np.clip(np.rint(block * step), -centre, top - centre)
        along = np.cumsum(codes * (block * importance), dtype=np.float32)[-1]
        best = along * inverse(np.cumsum(codes * codes * importance, dtype=np.float32)[-1])
        if along * best > gain:
            gain, scale, zero, width = along * best, best, centre, own
    return scale, zero


def inverse(value: np.float32) -> np.float32:
    return np.float32(1) / value if value >= TINY else np.float32(0)


def kinds(count: int, size: int, seed: int) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    normal = random.standard_normal((count, size)).astype(np.float32)
    outlier = np.zeros((count, size), np.float32)
    outlier[np.arange(count), random.integers(0, size, count)] = normal[:, 0]
    return {
        "normal": normal * np.float32(0.02),
        "heavy tails": random.standard_t(2, (count, size)).astype(np.float32),
        "zeros": np.zeros((count, size), np.float32),
        "one outlier": outlier,
        "constant": np.repeat(normal[:, :1], size, axis=1),
        "negative": -np.abs(normal),
        "positive": np.abs(normal),
        "denormal": normal * np.float32(1e-40),
        "tiny": normal * np.float32(1e-30),
        "huge": normal * np.float32(1e15),
        "on a grid": random.integers(-8, 8, (count, size)).astype(np.float32) / 4,
        "between two codes": random.integers(-16, 16, (count, size)).astype(np.float32) / 2,
        "bfloat16": (normal.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
    }


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("size", [16, 32, 128])
def test_each_block_has_the_bytes_of_plain_numpy(name: str, size: int) -> None:
    """With rows of 5 blocks, whose importance differs, and more blocks than lanes."""
    columns = np.exp(np.random.default_rng(size).normal(0, 1, 5 * size)).astype(np.float32)
    columns[3] = 0
    for kind, blocks in kinds(LANES + 11, size, seed=size).items():
        importance = np.ones_like(columns) if kind == "huge" else columns
        scales, zeros = found(blocks, importance, SEARCHES[name])
        wanted = [
            plainly(block, importance.reshape(5, size)[number % 5], SEARCHES[name])
            for number, block in enumerate(blocks)
        ]
        np.testing.assert_array_equal(scales, [scale for scale, _ in wanted], err_msg=kind)
        np.testing.assert_array_equal(zeros, [zero for _, zero in wanted], err_msg=kind)


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=20, deadline=None)
@given(arrays(np.float32, (2, 32), elements=st.floats(-100, 100, width=32)), st.integers(0, 100))
def test_any_block_has_the_bytes_of_plain_numpy(name: str, blocks: Floats, seed: int) -> None:
    importance = np.exp(np.random.default_rng(seed).normal(0, 1, 32)).astype(np.float32)
    scales, zeros = found(blocks, importance, SEARCHES[name])
    wanted = [plainly(block, importance, SEARCHES[name]) for block in blocks]
    assert list(zip(scales, zeros, strict=True)) == wanted


def test_the_best_of_all_widths_and_zero_points_is_found() -> None:
    """By the squared error itself, in float64: what has the greatest <w, c>² / <c, c> has the least."""
    importance = np.exp(np.random.default_rng(1).normal(0, 1, 32)).astype(np.float32)
    tried = Search(tuple((share, shift) for share in (1.0, 0.9, 0.8) for shift in (-1, 0, 1)))
    blocks = kinds(40, 32, seed=3)["heavy tails"]
    for block, scale, zero in zip(blocks, *found(blocks, importance, tried), strict=True):
        low, high = min(block.min(), 0), max(block.max(), 0)
        errors = {}
        for share, shift in tried.trials:
            own = np.clip(np.rint(-low / ((high - low) / 15)) + shift, 0, 15)
            codes = np.clip(np.rint(block / (share * np.float64(high - low) / 15)), -own, 15 - own)
            best = (codes * block * importance).sum() / (codes * codes * importance).sum()
            errors[np.float32(best), own] = (np.square(block - best * codes) * importance).sum()
        (best, own), least = min(errors.items(), key=lambda pair: pair[1])
        assert (scale, zero) == (pytest.approx(best, rel=1e-5), own), least


def test_eight_bits_are_searched_too() -> None:
    blocks = kinds(70, 32, seed=5)["normal"]
    scales, zeros = found(blocks, ONES, CALIBRATED, top=255)
    wanted = [plainly(block, ONES, CALIBRATED, top=255) for block in blocks]
    np.testing.assert_array_equal(scales, [scale for scale, _ in wanted])
    np.testing.assert_array_equal(zeros, [zero for _, zero in wanted])


@pytest.mark.parametrize("name", SEARCHES)
def test_an_infinite_range_has_no_scale(name: str) -> None:
    blocks = np.zeros((3, 32), np.float32)
    blocks[1, :2] = -3e38, 3e38
    scales, _ = found(blocks, ONES, SEARCHES[name])
    assert np.isnan(scales).tolist() == [False, True, False]


def test_the_number_of_blocks_does_not_change_a_block() -> None:
    blocks = kinds(3 * LANES + 1, 32, seed=2)["heavy tails"]
    whole = found(blocks, ONES, CALIBRATED)
    for count in (1, 2, LANES, LANES + 1):
        np.testing.assert_array_equal(found(blocks[:count], ONES, CALIBRATED), whole[:, :count])


def rounded(
    blocks: Floats, importance: Floats | None, tried: Search, *, bits: int = 4, code_bits: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Codes as `round_blocks` packs them, scales, zero points, and whether all weights are finite."""
    count, size = blocks.shape
    scales, zeros = np.empty(count, np.float16), np.full(count, 77, np.uint8)
    codes = np.empty((count, blocks.size // count * code_bits // 8), np.uint8)
    lanes = np.empty((size, 0), np.float32) if importance is None else lanes_of(importance, size)
    words = blocks.view(np.uint32)
    words.flags.writeable = False
    top = np.float32((1 << bits) - 1)
    finite, largest = round_blocks(
        words, lanes, tried.tried, top, tried.centred, scales.view(np.uint16), zeros, codes.view(np.uint16)
    )
    if (greatest := np.uint32(largest).view(np.float32)) < 65520:
        assert np.abs(scales).max() == np.float16(greatest)
    return codes, scales, zeros, finite


def rounded_plainly(blocks: Floats, scales: np.ndarray, zeros: np.ndarray, top: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.array([inverse(abs(scale)) * np.sign(scale) for scale in scales.astype(np.float32)], np.float32)
        return np.clip(np.rint(blocks * steps[:, None]) + zeros[:, None], 0, top).astype(np.uint8)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("alike", [True, False])
def test_what_is_searched_is_rounded_to_float16_and_to_the_nearest_codes(name: str, alike: bool) -> None:
    importance = None if alike else np.exp(np.random.default_rng(1).normal(0, 1, 5 * 32)).astype(np.float32)
    tried = SEARCHES[name]
    for kind, blocks in kinds(LANES + 11, 32, seed=9).items():
        if kind in ("huge", "heavy tails"):
            blocks = np.clip(blocks, -1e5, 1e5)  # noqa: PLW2901 - scales that float16 holds
        codes, scales, zeros, finite = rounded(blocks, importance, tried)
        searched, places = found(blocks, np.ones(5 * 32, np.float32) if alike else importance, tried)
        assert finite
        np.testing.assert_array_equal(scales.view(np.uint16), searched.astype(np.float16).view(np.uint16), kind)
        np.testing.assert_array_equal(zeros, places, kind)
        np.testing.assert_array_equal(codes, rounded_plainly(blocks, scales, zeros, 15), kind)
        packed = rounded(blocks, importance, tried, code_bits=4)[0]
        np.testing.assert_array_equal(packed, codes[:, ::2] | codes[:, 1::2] << 4, kind)


@pytest.mark.parametrize("bits", [4, 8])
def test_without_trials_the_largest_weight_is_laid_on_the_least_code(bits: int) -> None:
    half = np.float32(1 << (bits - 1))
    for kind, blocks in kinds(LANES + 11, 32, seed=4).items():
        if kind == "huge":
            continue
        codes, scales, _, finite = rounded(blocks, None, Search(()), bits=bits)
        low, high = blocks.min(axis=1), blocks.max(axis=1)
        wanted = (np.where(-low > high, low, high) / -half).astype(np.float16)
        assert finite
        np.testing.assert_array_equal(scales.view(np.uint16), wanted.view(np.uint16), kind)
        zeros = np.full(len(blocks), half, np.uint8)
        np.testing.assert_array_equal(codes, rounded_plainly(blocks, wanted, zeros, int(2 * half - 1)), kind)


def test_every_scale_is_rounded_as_numpy_rounds_it() -> None:
    """All float16 numbers, what lies halfway between two, and their neighbours in float32."""
    numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (numbers[1:] + numbers[:-1]) / 2
    wanted = np.concatenate([numbers, middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, 1e9)])
    blocks = np.zeros((2 * len(wanted), 8), np.float32)
    blocks[:, 3] = np.concatenate([wanted, -wanted]) * np.float32(-8)
    _, scales, _, _ = rounded(blocks, None, Search(()))
    signed = np.concatenate([wanted, -wanted])
    signed[signed == 0] = -0.0  # of a block of zeros
    np.testing.assert_array_equal(scales.view(np.uint16), signed.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("bits", [4, 8])
def test_bfloat16_is_read_as_its_float32(bits: int) -> None:
    tried = SEARCHES["onnx"] if bits == 4 else Search(())
    for kind, blocks in kinds(LANES + 11, 32, seed=6).items():
        halves = (np.clip(blocks, -1e4, 1e4).view(np.uint32) >> 16).astype(np.uint16)
        wide = (halves.astype(np.uint32) << 16).view(np.float32)
        for one, other in zip(
            rounded(halves, None, tried, bits=bits), rounded(wide, None, tried, bits=bits), strict=True
        ):
            np.testing.assert_array_equal(one, other, kind)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 31])
def test_a_weight_that_is_not_finite_is_reported(value: float, place: int) -> None:
    largest = np.float32(3.3e38)
    for tried in (SEARCHES["onnx"], Search(())):
        blocks = np.full((LANES + 3, 32), largest)
        blocks[5] = -largest
        assert rounded((blocks.view(np.uint32) >> 16).astype(np.uint16), None, tried)[3]
        assert rounded(blocks, None, tried)[3]
        for block in (0, LANES + 2):
            spoilt = blocks.copy()
            spoilt[block, place] = value
            assert not rounded(spoilt, None, tried)[3]
            assert not rounded((spoilt.view(np.uint32) >> 16).astype(np.uint16), None, tried)[3]


def test_codes_are_rounded_half_to_even_and_kept_in_range() -> None:
    """With a scale of 1, which the first weight sets: it is laid on code 0 of 16."""
    weights = np.zeros((1, 16), np.float32)
    weights[0, :12] = [-8, -2.5, -1.5, -0.5, 0, 0.5, 1.5, 2.5, 7, 7.4, 7.6, 3]
    codes, scales, _, _ = rounded(weights, None, Search(()))
    assert scales.tolist() == [1]
    assert codes[0, :12].tolist() == [0, 6, 6, 8, 8, 8, 10, 10, 15, 15, 15, 11]
