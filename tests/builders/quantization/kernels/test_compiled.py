"""Compiling works wherever phipack is installed, and changes no result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

from builders.quantization.grids.affine import AffineGrid
from builders.quantization.kernels import sweep
from builders.quantization.kernels.compiled import __file__ as compiled_source
from builders.quantization.kernels.compiled import choose, compiled, transpose_words

_PART = """
from builders.quantization.kernels.compiled import inlined

@inlined
def part(value):
    return value * {factor}
"""
_WHOLE = """
from builders.quantization.kernels.compiled import compiled
from builders.quantization.kernels.part import part

@compiled
def whole(value):
    return part(value)
"""


def _refused(_locator: object) -> None:
    raise PermissionError


def test_without_a_folder_for_the_cache_it_is_compiled_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (caching.UserProvidedCacheLocator, caching.InTreeCacheLocator, caching.UserWideCacheLocator):
        monkeypatch.setattr(place, "ensure_cache_path", _refused)

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
    (index,) = tmp_path.rglob("sweep.descend_columns*.nbi")
    assert b"builders" not in index.read_bytes()


def test_code_is_compiled_again_after_a_part_in_another_file_has_changed(tmp_path: Path) -> None:
    """numba alone would keep a kernel whose own file is the same, as after `git pull` or an update by pip."""
    kernels = tmp_path / "builders/quantization/kernels"
    kernels.mkdir(parents=True)
    for folder in (kernels.parent.parent, kernels.parent):
        (folder / "__init__.py").touch()
    for name in ("__init__.py", "compiled.py", "locators.py"):
        shutil.copy(Path(compiled_source).parent / name, kernels)
    (kernels / "whole.py").write_text(_WHOLE)
    printed = []
    for factor in (2, 3):
        (kernels / "part.py").write_text(_PART.format(factor=factor))
        command = [sys.executable, "-c", "from builders.quantization.kernels.whole import whole; print(whole(5.0))"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        environment.pop("NUMBA_CACHE_DIR", None)
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        printed.append(float(ended.stdout))
    assert printed == [10, 15]
    assert list(kernels.glob("__pycache__/whole.whole*.nbi"))
