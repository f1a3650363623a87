"""Products of rows with a matrix, in float32, by oneDNN: the bits of a sum do not depend on the number of threads.

torch's own choice is MKL, which shares long sums among threads where the processor has AVX-512: on an Intel Xeon a
product over 8,192 columns had three different results with 1, 2 and 16 threads. oneDNN, which torch has as well, had
one in each shape that was tried. It shares sums, too, but never those of 1,024 columns or fewer, so that statistics,
on which a bundle's bytes depend, are added up from such parts. What was measured is in
docs/decisions/0012-same-bits-for-any-threads.md.

Statistics are measured with products of bfloat16 numbers and sums in float32. On processors with AMX they are
computed so; elsewhere they are float32 products of the same rounded numbers, equal but for the order of additions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PART_COLUMNS = 1024  # whose sum one thread computes: src/cpu/x64/jit_brgemm_inner_product_utils.cpp, IC reduction
_setting = threading.Lock()  # torch's, of the process


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows [N, columns] times the transpose of a matrix [M, columns], float32 [N, M]."""
    import torch
    from torch.nn import functional

    if not torch.backends.mkldnn.is_available():  # macOS on Arm
        return functional.linear(rows, matrix, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), matrix, bias, "none", [], "")  # noqa: SLF001
    return found


def bfloat16_product(rows: Sequence[Tensor], matrix: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """Return the product of rows and a matrix, both in `bfloat16_parts`, which are added in order: float32 [N, M]."""
    with _bfloat16_products():
        found = product(rows[0], matrix[0], bias)
        for own, part in zip(rows[1:], matrix[1:], strict=True):
            found = _added(found, own, part)
    return found


def bfloat16_parts(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return a matrix [M, columns] in parts of at most `PART_COLUMNS`, rounded to bfloat16, in float32."""
    return tuple(part.bfloat16().float().contiguous() for part in matrix.split(PART_COLUMNS, dim=1))


@cache
def has_bfloat16_products() -> bool:
    """Return whether the processor multiplies matrices of bfloat16 (AMX)."""
    import torch

    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and torch.backends.mkldnn.is_available()


def _bfloat16_products() -> AbstractContextManager[None]:
    """Have oneDNN multiply in bfloat16 where the processor can."""
    return _bfloat16_setting() if has_bfloat16_products() else nullcontext()


@contextmanager
def _bfloat16_setting() -> Iterator[None]:
    """Change torch's setting, which is the process's: one product at a time uses it."""
    from torch.backends import mkldnn

    with _setting:
        before = mkldnn.matmul.fp32_precision
        mkldnn.matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            mkldnn.matmul.fp32_precision = before


def _added(sums: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    """Return sums [N, M] plus rows [N, columns] times the transpose of a matrix [M, columns]."""
    import torch
    from torch.nn import functional

    if not torch.backends.mkldnn.is_available():
        return sums + functional.linear(rows, matrix)
    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, sums, matrix, None, "add")  # noqa: SLF001
    return found
