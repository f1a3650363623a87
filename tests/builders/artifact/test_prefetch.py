"""Work done ahead: in order, no further ahead than asked, and ended with who uses it."""

from __future__ import annotations

from contextlib import closing

import pytest

from builders.artifact.prefetch import prefetched


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_calls_order(threads: int) -> None:
    assert list(prefetched((lambda number=number: number * 2 for number in range(10)), threads)) == [*range(0, 20, 2)]


def test_no_more_is_begun_than_asked() -> None:
    begun: list[int] = []
    with closing(prefetched((lambda number=number: begun.append(number) for number in range(10)), 2)) as made:
        next(made)
        assert len(begun) <= 3
    assert len(begun) <= 3


def test_an_error_comes_in_its_place_and_ends_it() -> None:
    made = prefetched([lambda: 1, lambda: 1 // 0, lambda: 2], 1)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert list(made) == []
