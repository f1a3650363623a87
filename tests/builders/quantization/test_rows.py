"""Rows of a matrix are shared among threads, and matrices follow one another."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from builders.quantization.rounding import rows
from builders.quantization.rounding.rows import by_rows


def test_all_rows_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_ROWS", 4)
    weights = np.arange(22, dtype=np.float32).reshape(11, 2)
    doubled, sums = by_rows(weights, lambda some: (some * 2, some.sum(1)))
    np.testing.assert_array_equal(doubled, weights * 2)
    np.testing.assert_array_equal(sums, weights.sum(1))


def test_two_matrices_are_never_in_work_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_ROWS", 1)
    working, together, lock = list[float](), set[frozenset[float]](), threading.Lock()

    def work(some: np.ndarray) -> tuple[np.ndarray]:
        which = float(some[0, 0])
        with lock:
            working.append(which)
            together.add(frozenset(working))
        time.sleep(0.002)
        with lock:
            working.remove(which)
        return (some,)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda number: by_rows(np.full((8, 1), number, np.float32), work), (1, 2)))
    assert together == {frozenset({1.0}), frozenset({2.0})}
