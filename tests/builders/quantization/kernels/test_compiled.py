"""Compiling works wherever phipack is installed, and changes no result."""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

from builders.quantization.grids.affine import AffineGrid
from builders.quantization.kernels import sweep
from builders.quantization.kernels.compiled import choose, compiled, transpose_words


def test_without_a_folder_for_the_cache_it_is_compiled_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @compiled
    def doubled(value: float) -> float:
        return value * 2

    assert doubled(2.5) == 5


def test_products_and_sums_are_rounded_one_by_one() -> None:
    """A fused multiply-add would be exact, and differ between processors."""

    @compiled
    def fused(one: np.ndarray, other: np.ndarray, third: np.ndarray, out: np.ndarray) -> None:
        for place in range(len(out)):
            out[place] = one[place] * other[place] + third[place]

    random = np.random.default_rng(0)
    one, other, third = random.standard_normal((3, 1000)).astype(np.float32)
    out = np.empty(1000, np.float32)
    fused(one, other, third, out)
    np.testing.assert_array_equal(out, one * other + third)
    exact = one.astype(np.float64) * other + third
    assert (out != exact.astype(np.float32)).any()


def test_choose_takes_the_first_where_the_condition_holds() -> None:
    @compiled
    def larger(one: np.float32, other: np.float32) -> np.float32:
        return choose(one > other, one, other)

    assert larger(np.float32(1), np.float32(2)) == larger(np.float32(2), np.float32(1)) == 2


def test_eight_rows_of_eight_words_change_places_with_columns() -> None:
    @compiled
    def transpose(source: np.ndarray, target: np.ndarray) -> None:
        transpose_words(source.ctypes.data + 4, 4 * source.shape[1], target.ctypes.data, 4 * target.shape[1])

    source, target = np.arange(8 * 11, dtype=np.uint32).reshape(8, 11), np.zeros((9, 8), np.uint32)
    transpose(source, target)
    np.testing.assert_array_equal(target[:8], source[:, 1:9].T)
    assert not target[8].any()


def test_the_cache_names_no_class_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that names one can't be read after an update that has moved it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    block = AffineGrid(32).fit(np.ones((2, 32), np.float32), np.ones(32, np.float32))
    own, codes = np.ones((32, 2), np.float32), np.empty((32, 2), np.uint8)
    fresh = compiled(sweep.descend_columns.py_func)  # type: ignore[attr-defined]
    fresh(own, np.eye(32, dtype=np.float32), block.levels.parts, 0, codes, np.ones_like(own))
    (index,) = tmp_path.rglob("*.nbi")
    assert b"builders" not in index.read_bytes()
