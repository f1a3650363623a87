"""The bounded run: the same damaged inputs every time, for every parser that meets bytes from outside.

`make test` takes a third of them, `CASES=all` all; `python -m tests.fuzz` as many as one likes.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.mutation import LENGTH_LIMIT, mutated
from tests.fuzz.run import DefectError, try_input, try_inputs
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.support.cases import examples

MEMORY_BYTES = 64 << 20  # for an input of 64 KiB


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    try_inputs(target, name, examples(target.inputs))


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_input_takes_little_memory(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    tracemalloc.start()
    try_inputs(target, name, 25, seed="memory")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_BYTES


def test_an_input_is_the_same_in_every_run() -> None:
    corpus = [b'{"a": [1, 2, {"b": "c"}]}', b"GGUF123"]
    inputs = [mutated(corpus, "seed", number) for number in range(500)]
    assert inputs == [mutated(corpus, "seed", number) for number in range(500)]
    assert len(set(inputs)) > 300
    assert max(map(len, inputs)) <= LENGTH_LIMIT
    assert any(len(raw) > 4000 for raw in inputs)


def test_a_defect_is_found() -> None:
    """`int` of a header, as it stood once."""
    with pytest.raises(DefectError, match="ValueError"):
        try_inputs(Target((b"120",), lambda raw: int(raw.decode("latin-1"))), "header", 50)
    with pytest.raises(DefectError, match="RecursionError"):
        try_input(Target((), lambda _: exec("f = lambda: f(); f()", {})), b"", "deep")
