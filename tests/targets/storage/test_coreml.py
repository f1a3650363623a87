"""What a Core ML budget chooses among, and its bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from targets.config_json import read_architecture
from targets.errors import RecipeError
from targets.recipes import recipe_named
from targets.storage.coreml import candidates, part_bytes, plan, storage_of
from tests.support.checkpoints import Tiny

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("columns", "tables"),
    [
        (64, ["table of 8 block 64", "table of 8 block 32", *(f"table of 16 block {size}" for size in (64, 32, 16))]),
        (96, ["table of 8 block 32", "table of 16 block 32", "table of 16 block 16"]),
        (48, ["table of 16 block 16"]),
        (72, []),
    ],
)
def test_blocks_divide_the_rows(columns: int, tables: list[str]) -> None:
    architecture = read_architecture(Tiny(intermediate=columns).config())
    found = [one.storage for one in candidates(DOWN, architecture)]
    assert [storage for storage in found if storage.startswith("table")] == tables
    assert found == ["float16"] or all("block" in storage for storage in found)


def test_a_table_whose_blocks_do_not_divide_the_rows_is_refused() -> None:
    recipe = replace(recipe_named("coreml-int4"), types=((DOWN, "table of 8 block 32"),))
    with pytest.raises(RecipeError, match="can't be stored as 'table of 8 block 32'"):
        storage_of(DOWN, (64, 72), recipe)


@pytest.mark.parametrize(
    ("shape", "storage", "parts"),
    [
        ((128, 64), "table of 8 block 32", (128 * 64 * 3 // 8, 2 * 8 * 2, 128 * 2 * 2)),
        ((100, 64), "table of 16 block 16", (100 * 64 // 2, 25 * 16 * 2, 100 * 4 * 2)),  # 4 rows share a table
        ((7, 64), "table of 8 block 64", (7 * 64 * 3 // 8, 7 * 8 * 2, 7 * 2)),
    ],
)
def test_codes_tables_and_scales_are_counted(shape: tuple[int, int], storage: str, parts: tuple[int, ...]) -> None:
    assert part_bytes(shape, storage) == parts


def test_the_smallest_types_have_less_than_three_quarters_of_the_recipes_bytes() -> None:
    architecture = read_architecture(Tiny(hidden=512, intermediate=512, heads=8, kv_heads=4).config())
    recipe = recipe_named("coreml-int4")
    matrices = [weight for weight in plan(architecture, recipe) if len(weight.shape) == 2]
    smallest = sum(min(one.bytes for one in candidates(weight.name, architecture)) for weight in matrices)
    assert smallest < 0.75 * sum(weight.bytes for weight in matrices)
