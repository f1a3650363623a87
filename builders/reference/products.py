"""Products of rows with a matrix, in float32: the same bits for any number of threads.

torch's own choice is MKL, which shares long sums among threads where the processor has AVX-512: on an Intel Xeon a
product over 8,192 columns had three different results with 1, 2 and 16 threads. torch also has oneDNN, whose results
for the shapes of mini were the same with 1 to 16 threads, and on processors of AMD (AVX2) and Intel (AVX-512). What was
measured, and how far it goes, is in docs/decisions/0012-same-bits-for-any-threads.md. For few rows it is faster, too.

`bfloat16` is for statistics: rows and matrices are rounded to bfloat16, and sums stay float32 (GPTQ's own code
collects its Hessian so, too). On processors with AMX the products are bfloat16's, in a half to a third of the time;
elsewhere they are float32's of the same rounded numbers. The sums of both are equal but for the order of additions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16"]
_setting = threading.Lock()  # torch's, of the process


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None, precision: Precision = "float32") -> Tensor:
    """Return rows [N, columns] times the transpose of a matrix [M, columns], float32 [N, M].

    `precision`: `bfloat16` rounds the rows; the matrix must be rounded (`rounded`) already.
    """
    if precision == "float32":
        return _onednn(rows, matrix, bias)
    with _bfloat16_products() if has_bfloat16_products() else nullcontext():
        return _onednn(rounded(rows, precision), matrix, bias)


def rounded(numbers: Tensor, precision: Precision) -> Tensor:
    """Return numbers as they are multiplied with, in float32."""
    return numbers if precision == "float32" else numbers.bfloat16().float()


@cache
def has_bfloat16_products() -> bool:
    """Return whether the processor multiplies matrices of bfloat16 (AMX)."""
    import torch

    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and torch.backends.mkldnn.is_available()


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Have oneDNN multiply in bfloat16. The setting is the process's, so one product at a time uses it."""
    from torch.backends import mkldnn

    with _setting:
        before = mkldnn.matmul.fp32_precision
        mkldnn.matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            mkldnn.matmul.fp32_precision = before


def _onednn(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Return `torch.nn.functional.linear`'s result, by oneDNN where torch was built with it."""
    import torch
    from torch.nn import functional

    if not torch.backends.mkldnn.is_available():  # macOS on Arm
        return functional.linear(rows, matrix, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), matrix, bias, "none", [], "")  # noqa: SLF001
    return found
