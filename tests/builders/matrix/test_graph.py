"""Jobs in their order, whatever order they come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.matrix.graph import Graph, Job, job_name
from targets.calibration import labelled


def job(name: str, *after: str, is_done: bool = False) -> Job:
    return Job(name, "build", name, after, is_done=is_done)


def test_a_job_comes_after_those_that_it_needs() -> None:
    graph = Graph([job("validate b", "b"), job("b"), job("validate a", "a"), job("a")])
    assert [one.name for one in graph] == ["b", "a", "validate b", "validate a"]


def test_calibrations_come_first_and_change_no_other_order() -> None:
    walk, build, other = Job("c", "calibrate", "c"), job("b", "c"), job("a")
    graph = Graph([walk, build, job("validate b", "b"), other, job("validate a", "a")])
    assert [one.name for one in graph] == ["c", "b", "a", "validate b", "validate a"]


@given(st.data())
def test_every_order_of_the_same_jobs_is_a_right_one(data: st.DataObject) -> None:
    jobs = [job(str(n), *{str(data.draw(st.integers(0, n - 1))) for _ in range(min(n, 2))}) for n in range(9)]
    names = [one.name for one in Graph(data.draw(st.permutations(jobs)))]
    for one in jobs:
        assert all(names.index(before) < names.index(one.name) for before in one.after)


def test_pending_leaves_out_what_is_done() -> None:
    graph = Graph([job("a", is_done=True), job("b"), job("c", "a")])
    assert [one.name for one in graph.pending] == ["b", "c"]
    assert graph.by_name["c"].after == ("a",)


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        ([job("a"), job("a")], "two jobs have one name"),
        ([job("a", "b")], "a is after b, which is not in the graph"),
        ([job("a", "b"), job("b", "a")], "jobs wait for each other"),
    ],
)
def test_what_is_no_graph_is_refused(jobs: list[Job], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Graph(jobs)


def test_names_are_readable() -> None:
    assert job_name("build", "gguf-q4_k_m", 4096, "1a2b3c4d5e") == "build-gguf-q4_k_m-4096-1a2b3c4d"
    light = job_name("build", labelled("gguf-q4_k_m", "light"), 4096, "1a2b3c4d5e")
    assert light == "build-gguf-q4_k_m-light-4096-1a2b3c4d"
    assert labelled("gguf-q4_k_m", "none") == "gguf-q4_k_m"
