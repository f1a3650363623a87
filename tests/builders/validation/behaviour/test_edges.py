"""Lengths at edges: none is left out where logits are many, and a graph's window is read from every layer."""

from __future__ import annotations

import pytest

from builders.validation.behaviour import edges
from builders.validation.behaviour.edges import check_edges
from tests.support.mutants import Nursery, subject_of
from tests.support.planted import MUTANTS


def test_every_length_is_read_in_one_go_however_many_logits_that_takes(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "SCORED_BYTES", 1)
    with subject_of(nursery.bundle("window", "onnx-fp16"), nursery.sound("window")) as subject:
        found = check_edges(subject)
        lengths = {length for length in subject.lengths if subject.is_exact(length)}
    assert len(lengths) > 4
    read = {int(check.name.split()[3]) for check in found.checks if check.name.startswith("in one go: ")}
    assert read == lengths
    assert all(check.passed for check in found.checks)


@pytest.mark.parametrize("name", ["no window in the graph", "one layer has no window in the graph"])
def test_a_graph_that_lost_its_window_is_caught(name: str, nursery: Nursery) -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == name]
    failed = {check.name for check in mutant.check(nursery).checks if not check.passed}
    assert "the graph's local_window_size" in failed
