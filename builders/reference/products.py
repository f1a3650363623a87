"""Products of rows with a matrix, in float32: the bits of a sum do not depend on the number of threads.

A product is computed in pieces, `PIECE_ROWS` rows of the matrix each, by numpy's library (OpenBLAS in its wheels), one
thread a piece. Which pieces there are does not depend on the threads, so neither do the results. Left to the libraries,
they do: torch's own choice is MKL, which shares long sums among threads where the processor has AVX-512, and OpenBLAS's
threads take as many rows as they find, of which the last ones are computed in another order. What was measured is in
docs/decisions/0012-same-bits-for-any-threads.md.

Products of few rows, as in greedy answers, are oneDNN's, which torch has as well and which is twice as fast there.

Statistics, on which a bundle's bytes depend, are measured with products of bfloat16 numbers and sums in float32. On
processors with AMX oneDNN computes them so, from sums over at most 1,024 columns, which it never shares among threads;
elsewhere they are float32 products of the same rounded numbers, equal but for the order of additions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from builders.threads import single_threaded_products, thread_count

if TYPE_CHECKING:
    from torch import Tensor

PART_COLUMNS = 1024  # whose sum one thread computes: src/cpu/x64/jit_brgemm_inner_product_utils.cpp, IC reduction
PIECE_ROWS = 512  # of a matrix: fewer make the product slower, more leave threads without work
_FEW_ROWS = 64  # of which oneDNN's products are the faster ones
_setting = threading.Lock()  # torch's, of the process


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows [N, columns] times the transpose of a matrix [M, columns], float32 [N, M]."""
    return _onednn_product(rows, matrix, bias) if len(rows) < _FEW_ROWS else _product_in_pieces(rows, matrix, bias)


def bfloat16_product(rows: Sequence[Tensor], matrix: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """Return the product of rows and a matrix, both in `bfloat16_parts`: float32 [N, M]."""
    if not has_bfloat16_products():
        (rows_of_all,), (matrix_of_all,) = rows, matrix
        return _product_in_pieces(rows_of_all, matrix_of_all, bias)
    with _bfloat16_setting():
        found = _onednn_product(rows[0], matrix[0], bias)
        for own, part in zip(rows[1:], matrix[1:], strict=True):
            found = _added(found, own, part)
    return found


def add_bfloat16_moments(total: Tensor, rows: Tensor) -> None:
    """Add the sum of x xᵀ over rows x [N, columns], rounded to bfloat16, to a total [columns, columns].

    Only to its lower triangle: what is above the diagonal means nothing afterwards. N is at most `PART_COLUMNS`.
    """
    (inputs,) = bfloat16_parts(rows.T)
    if has_bfloat16_products():
        total += bfloat16_product([inputs], [inputs])
        return
    columns, out = inputs.numpy(), total.numpy()

    def work(first: int) -> None:
        out[first:, first : first + PIECE_ROWS] += columns[first:] @ columns[first : first + PIECE_ROWS].T

    _in_pieces(work, len(columns))


def bfloat16_parts(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return a matrix [M, columns] rounded to bfloat16, in float32: parts of at most `PART_COLUMNS`, or one part.

    There are several where the processor multiplies bfloat16 numbers.
    """
    step = PART_COLUMNS if has_bfloat16_products() else matrix.shape[1]
    return tuple(part.bfloat16().float().contiguous() for part in matrix.split(step, dim=1))


@cache
def has_bfloat16_products() -> bool:
    """Return whether the processor multiplies matrices of bfloat16 (AMX)."""
    import torch

    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and torch.backends.mkldnn.is_available()


def _product_in_pieces(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    found = rows.new_empty(len(rows), len(matrix))
    left, right, out = np.ascontiguousarray(rows.numpy()), matrix.numpy(), found.numpy()

    def work(first: int) -> None:
        piece = slice(first, first + PIECE_ROWS)
        np.matmul(left, right[piece].T, out=out[:, piece])

    _in_pieces(work, len(right))
    return found if bias is None else found.add_(bias)


def _in_pieces(work: Callable[[int], None], height: int) -> None:
    """Call `work` with the first row of each piece of so many rows, in as many threads as there are."""
    starts = range(0, height, PIECE_ROWS)

    def quiet(first: int) -> None:
        with np.errstate(invalid="ignore", over="ignore"):  # who reads the sums looks whether they are finite
            work(first)

    with single_threaded_products(), ThreadPoolExecutor(min(thread_count(), len(starts))) as pool:
        for _ in pool.map(quiet, starts):
            pass  # a piece's error is raised here


def _onednn_product(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    import torch
    from torch.nn import functional

    if not torch.backends.mkldnn.is_available():  # macOS on Arm
        return functional.linear(rows, matrix, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), matrix, bias, "none", [], "")  # noqa: SLF001
    return found


def _added(sums: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    """Return sums [N, M] plus rows [N, columns] times the transpose of a matrix [M, columns], by oneDNN."""
    import torch

    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, sums, matrix, None, "add")  # noqa: SLF001
    return found


@contextmanager
def _bfloat16_setting() -> Iterator[None]:
    """Have oneDNN multiply in bfloat16: torch's setting is the process's, so one product at a time uses it."""
    from torch.backends import mkldnn

    with _setting:
        before = mkldnn.matmul.fp32_precision
        mkldnn.matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            mkldnn.matmul.fp32_precision = before
