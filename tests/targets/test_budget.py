"""A bundle's budget: how it is stated and shown."""

from __future__ import annotations

import pytest

from targets.budget import Budget
from targets.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "count"),
    [("1B", 1), ("2.0GB", 2_000_000_000), ("950 MB", 950_000_000), ("1.5 kB", 1500), ("1.9GiB", 2_040_109_466)],
)
def test_sizes_have_units(text: str, count: int) -> None:
    budget = Budget.of_size(text)
    assert budget == Budget("bytes", count)
    assert (budget.label, budget.in_names) == (f"at most {count} B", f"{count}B")


@pytest.mark.parametrize("text", ["", "2", "2 gb", "-1GB", "1e9B", "0B", "0.4B", "1.GB", "fit", "1GB 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is not a size") as caught:
        Budget.of_size(text)
    assert "2.0GB" in caught.value.fix


def test_bits_are_within_what_recipes_store() -> None:
    assert Budget.of_bits(4.25).label == "4.25 bits"
    assert Budget.of_bits(4.25).in_names == "4.25bits"
    assert Budget("fit").label == Budget("fit").in_names == "fit"
    for bits in (0.9, 16.1, float("nan")):
        with pytest.raises(RecipeError, match="outside of what recipes can store"):
            Budget.of_bits(bits)
