"""Functions of single numbers, such as exponentials: the same bits for any number of threads.

torch gives each thread a stretch of the numbers, and computes the last few of it by scalar code, whose exponential has
other last bits than that of its vectors: a SiLU of 1,024 rows of 1,280 numbers had another digest with 3, 5 and 7
threads than with 1, 2 and 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SHARED_FROM = 32768  # numbers that torch shares among threads: at::internal::GRAIN_SIZE


def few_at_once(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Return a function of each number of rows [N, columns], of so few rows at a time that one thread computes them."""
    import torch

    return torch.cat([function(part) for part in rows.split(max(1, _SHARED_FROM // rows.shape[1]))])
