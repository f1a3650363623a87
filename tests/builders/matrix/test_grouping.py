"""Jobs in groups: all of them, once, on machines that can do them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from builders.matrix.graph import Graph, Job, Needs
from builders.matrix.grouping import group_jobs, with_what_comes_before


def chain(
    number: int, *, seconds: float = 60.0, label: str = "", built: bool = False, measured: bool = False
) -> list[Job]:
    build = Job(f"build-r{number}-64-aa", "build", f"b{number}", cells=(f"c{number}",), is_done=built)
    build = Job(**(vars(build) | {"needs": Needs(seconds=seconds, memory_bytes=2, disk_bytes=3)}))
    needs = Needs(frozenset({label} if label else ()), 5, 4, seconds)
    name = f"validate-r{number}-64-bb"
    return [build, Job(name, "validate", f"v{number}", (build.name,), (f"c{number}",), needs, measured)]


def calibrated(number: int, *, measured: bool = False, built: bool = False) -> list[Job]:
    """A chain whose build learns from a calibration that others share."""
    build, validation = chain(number, built=built)
    if built:
        return [build, validation]
    shared = Job(
        "calibrate-light-cc", "calibrate", "cc", cells=("c0", "c1", "c2"), needs=Needs(seconds=100), is_done=measured
    )
    return [shared, replace(build, after=(shared.name,)), validation]


def graph_of(*chains: list[Job]) -> Graph:
    return Graph({job.name: job for some in chains for job in some}.values())


def test_nothing_pending_is_no_group() -> None:
    assert group_jobs(graph_of(chain(0, built=True, measured=True))) == ()


def test_three_bundles_share_a_read_and_their_validations_follow() -> None:
    groups = group_jobs(graph_of(*(chain(number) for number in range(4))))
    assert len(groups) == 2
    for group in groups:
        kinds = [job.kind for job in group.jobs]
        assert kinds == ["build"] * (len(kinds) // 2) + ["validate"] * (len(kinds) // 2)
        assert [job.kind for job in group.last_jobs] == ["validate"] * (len(kinds) // 2)
    (one,) = group_jobs(graph_of(*(chain(number) for number in range(3))))
    assert one.name == "r0-64-bb-and-2-more"
    assert (one.seconds, one.memory_bytes, one.disk_bytes) == (360.0, 6, 9)
    assert one.cells == ("c0", "c1", "c2")


def test_a_machine_of_another_kind_gets_a_group_of_its_own() -> None:
    groups = group_jobs(graph_of(chain(0), chain(1, label="macos"), chain(2)), shards=1)
    assert [(group.labels, group.cells) for group in groups] == [((), ("c0", "c2")), (("macos",), ("c1",))]


def test_a_bundle_that_is_built_is_only_measured() -> None:
    (group,) = group_jobs(graph_of(chain(0, built=True)))
    assert [job.name for job in group.jobs] == ["validate-r0-64-bb"]


def test_shards_take_about_the_same_time() -> None:
    seconds = (100, 1, 1, 50, 50, 1)
    groups = group_jobs(graph_of(*(chain(n, seconds=s) for n, s in enumerate(seconds))), shards=2)
    assert sorted(group.seconds for group in groups) == [202, 204]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["", "macos", "android"]), st.integers(1, 99)), max_size=30),
    st.integers(1, 9) | st.none(),
    st.integers(1, 12),
)
def test_every_pending_job_is_in_one_group(chains: list[tuple[bool, str, int]], shards: int | None, most: int) -> None:
    graph = graph_of(*(chain(n, built=b, label=label, seconds=s) for n, (b, label, s) in enumerate(chains)))
    groups = group_jobs(graph, shards=shards, most=most)
    counted = Counter(job.name for group in groups for job in group.jobs)
    assert counted == Counter(job.name for job in graph.pending)
    kinds = len({label for _, label, _ in chains})
    assert len(groups) <= max(most, kinds)
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert Graph(graph.jobs).jobs == graph.jobs
        assert set(group.jobs) <= set(with_what_comes_before(graph, group.last_jobs))
        assert group == next(one for one in group_jobs(graph, shards=shards, most=most) if one.name == group.name)


def test_what_comes_before_and_is_done_is_left_out() -> None:
    done, fresh = chain(0, built=True), chain(1)
    graph = graph_of(done, fresh)
    assert with_what_comes_before(graph, [done[1], fresh[1]]) == (*fresh[:1], done[1], fresh[1])


def test_a_calibration_is_in_every_group_that_builds_with_it() -> None:
    graph = graph_of(*(calibrated(number) for number in range(3)), chain(3, label="macos"))
    first, second, other = sorted(group_jobs(graph, shards=2), key=lambda group: (group.labels, -group.seconds))
    assert [job.kind for job in first.jobs] == ["calibrate", "build", "build", "validate", "validate"]
    assert [job.kind for job in second.jobs] == ["calibrate", "build", "validate"]
    assert [job.kind for job in other.jobs] == ["build", "validate"]
    assert [group.seconds for group in (first, second, other)] == [340, 220, 120]  # counted once in each
    assert [group.cells for group in (first, second, other)] == [("c0", "c2"), ("c1",), ("c3",)]
    for group in (first, second, other):
        assert with_what_comes_before(graph, group.last_jobs) == group.jobs


def test_a_calibration_that_is_done_or_has_nothing_to_build_is_in_no_group() -> None:
    (group,) = group_jobs(graph_of(calibrated(0, measured=True), calibrated(1, built=True)))
    assert [job.kind for job in group.jobs] == ["build", "validate", "validate"]
