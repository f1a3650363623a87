"""Sequences that are read on have the hidden states of those that are read whole, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from builders.reference.sequences import cache_bytes, weight_bytes
from tests.support.checkpoints import write_tiny
from tests.support.mutants import SHAPES

ROOM = 60


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_resident", [True, False])
def test_reading_on_is_reading_whole(
    shape: str, is_resident: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_resident:
        monkeypatch.setattr("builders.reference.sequences.RESIDENT_BYTES", 0)
    reference = FloatReference(open_checkpoint(write_tiny(tmp_path / "c", **SHAPES[shape] | {"dtype": "F16"})))
    tokens = np.random.default_rng(3).integers(5, 300, (3, ROOM))
    expected = reference.states(tokens)
    sequences = reference.sequences([ROOM] * 3)
    assert sequences.is_resident is is_resident
    sequences.read({1: [7, 8, 9]})
    sequences.cut(1, 0)  # what was read is forgotten
    found: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for ends in ({0: 1, 2: 40}, {2: 41, 1: 57}, {0: 50}, {0: 60, 1: 60, 2: 60}):
        read = {number: tokens[number, sequences.length(number) : end].tolist() for number, end in ends.items()}
        for number, rows in sequences.read(read).items():
            found[number].append(rows)
        if ends.get(2) == 41:
            sequences.cut(2, 30)
            found[2] = [np.concatenate(found[2])[:30]]
    for number, rows in found.items():
        np.testing.assert_allclose(np.concatenate(rows), expected[number], atol=2e-4)


def test_bytes_are_those_of_the_tensors(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", dtype="F16"))
    reference = FloatReference(checkpoint)
    sequences = reference.sequences([10, 7])
    kept = [one for sequence in sequences._sequences for one in (sequence.keys, sequence.values)]
    assert cache_bytes(checkpoint.architecture, 17) == sum(one.nbytes for one in kept)
    sequences.read({0: [5]})
    layers = [part for prefix, part in sequences._kept.items() if "layers" in prefix]
    assert weight_bytes(checkpoint.architecture) == sum(one.nbytes for part in layers for one in part.values())
