"""Which types are fast on a target."""

from __future__ import annotations

from typing import get_args

import pytest

from targets.devices import load_targets, target_named
from targets.kernels import fast_types, load_kernels, slow_types
from targets.recipes import Format
from targets.runtimes.table import load_table
from targets.storage.gguf import CANDIDATES

REPACKED = ("Q4_0", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K", "Q8_0")  # in today's llama.cpp
SLOW = ("Q3_K", "IQ4_XS", "Q5_0", "Q5_1")


def test_android_phones_get_the_repacked_types() -> None:
    phones = [target for target in load_targets().values() if target.os == "Android"]
    assert phones
    for target in phones:
        assert fast_types("gguf", target) == REPACKED
        assert slow_types("gguf", target) == SLOW


def test_where_all_types_run_alike_none_is_left_out() -> None:
    formats: tuple[Format, ...] = get_args(Format)
    for target in load_targets().values():
        for format_ in formats:
            if target.os != "Android" or format_ != "gguf":
                assert fast_types(format_, target) == slow_types(format_, target) == ()


@pytest.mark.parametrize(
    ("build", "soc", "fast"),
    [
        ("b4281", "Tensor G4", ()),
        ("b4282", "Tensor G4", ("Q4_0", "IQ4_NL")),
        ("b7365", "Tensor G4", ("Q4_0", "IQ4_NL", "Q4_K")),
        ("b7844", "Tensor G4", ("Q4_0", "IQ4_NL", "Q4_K")),
        ("b7845", "Tensor G4", REPACKED),
        ("b7845", "a chip of its own", ("Q4_0", "IQ4_NL", "Q4_K", "Q8_0")),
        ("b7988", "a chip of its own", ("Q4_0", "IQ4_NL", "Q4_K", "Q6_K", "Q8_0")),
        ("b8232", "a chip of its own", REPACKED),
    ],
)
def test_an_older_build_or_chip_has_fewer(build: str, soc: str, fast: tuple[str, ...]) -> None:
    target = target_named("pixel-9").model_copy(update={"runtimes": {"llama.cpp": build}, "soc": soc})
    assert fast_types("gguf", target) == fast
    assert set(slow_types("gguf", target)) == (set(CANDIDATES) - set(fast) if fast else set())


def test_the_table_knows_its_types_and_every_chip_of_ours() -> None:
    table = load_kernels()
    assert {one.type for one in table.kernels} <= set(CANDIDATES)
    assert {one.soc for one in table.socs} == {
        target.soc for target in load_targets().values() if target.os == "Android"
    }
    assert len({(one.type, one.cpu) for one in table.kernels}) == len(table.kernels)
    assert int(load_table().tested["llama.cpp"][1:]) > max(int(one.minimum[1:]) for one in table.kernels)
