"""Graphs done by real schedulers and workers of dask, with jobs that only keep records."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, TypeGuard

import pytest

from builders.matrix.cluster.address import ClusterAddress
from builders.matrix.cluster.connection import connected
from builders.matrix.cluster.course import Limits, SchedulerLostError
from builders.matrix.graph import Graph, Job, Needs
from devtools.stub_jobs import StubWork, cells, one
from targets.errors import ClusterError, ClusterUnreachableError
from targets.progress import Event, Notice, Step
from tests.builders.matrix.cluster.clusters import (
    QUICK,
    address_of,
    release,
    run,
    running,
    until,
    work_in,
    worker,
    written,
)

GB = 10**9


def is_notice(event: Event) -> TypeGuard[Notice]:
    return isinstance(event, Notice)


def test_every_job_is_done_once_and_after_those_before_it(tmp_path: Path) -> None:
    work, graph, events = work_in(tmp_path), cells(8), list[Event]()

    async def scenario() -> None:
        async with running(tmp_path, {}, {}) as (head, _):
            outcomes = await release(head, graph, work, on_progress=events.append)
            assert all(outcome.problem is None for outcome in outcomes.values())

    run(scenario())
    order = written(work)
    assert sorted(order) == sorted(graph.by_name)
    assert all(order.index(name) < order.index(job.name) for job in graph for name in job.after)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.done for step in steps if step.unit == "jobs"] == list(range(17))
    assert {step.name for step in steps} == {"jobs", "work", "after"}


def test_the_store_is_asked_for_a_record_before_and_after_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the coordinator once each, and by the worker once: with bundles each question is several requests."""
    work, graph, asked = work_in(tmp_path), cells(3), list[str]()
    is_done = StubWork.is_done
    monkeypatch.setattr(StubWork, "is_done", lambda self, job: asked.append(job.name) or is_done(self, job))

    async def scenario() -> None:
        async with running(tmp_path, {}) as (head, _):
            await release(head, graph, work)

    run(scenario())
    assert Counter(asked) == dict.fromkeys(graph.by_name, 3)


@pytest.mark.parametrize("failure", [AssertionError("of dask's reconnection"), OSError("closed"), TimeoutError()])
def test_a_client_that_can_not_be_closed_hides_no_loss_of_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def lost(address: ClusterAddress) -> None:
        async with connected(address, seconds=30) as client:
            close = client.close

            async def then_fails() -> None:
                await close()
                raise failure

            monkeypatch.setattr(client, "close", then_fails)  # of this client alone: others are closed meanwhile
            raise SchedulerLostError

    async def scenario() -> None:
        async with running(tmp_path, {}) as (head, _):
            with pytest.raises(SchedulerLostError):
                await lost(address_of(head))

    run(scenario())


def test_submitting_again_does_only_what_is_missing(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path), cells(3)

    async def scenario() -> None:
        async with running(tmp_path, {}) as (head, _):
            await release(head, Graph(list(graph)[:2]), work)
            before = written(work)
            outcomes = await release(head, graph, work)
            assert sorted(name for name, outcome in outcomes.items() if outcome.tries == 0) == sorted(before)

    run(scenario())
    assert sorted(written(work)) == sorted(graph.by_name)


def test_a_job_that_fails_for_its_own_reasons_is_tried_once_and_those_after_it_are_not(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path), Graph([*cells(1, "refused"), *one("stub")])

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}, {}) as (head, _):
            return await release(head, graph, work)

    outcomes = run(scenario())
    failed, after = outcomes["build-refused-4096-00000000"], outcomes["validate-refused-4096-00000000"]
    assert failed.tries == 1
    assert "build-refused-4096-00000000 failed on" in failed.problem.problem
    assert "(inproc://" in failed.problem.problem  # the machine
    assert failed.problem.fix == "choose another one"
    assert after.tries == 0
    assert "was not done: build-refused-4096-00000000, which it needs, failed" in after.problem.problem
    assert outcomes["build-stub-4096-00000000"].problem is None


@pytest.mark.parametrize("recipe", ["full_disk_once", "unfit_once"])
def test_a_machine_that_cannot_do_a_job_is_left_out_and_named(tmp_path: Path, recipe: str) -> None:
    work, events = work_in(tmp_path), list[Event]()
    graph = one(recipe, Needs(disk_bytes=1000))

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}, {}) as (head, _):
            return await release(head, graph, work, on_progress=events.append)

    (outcome,) = run(scenario()).values()
    assert outcome.problem is None
    assert outcome.tries == 2
    (notice,) = [event.text for event in events if isinstance(event, Notice) and "tried again" in event.text]
    assert notice.startswith(f"build-{recipe}-4096-00000000: ")
    assert "(inproc://" in notice


def test_a_full_disk_of_the_only_machine_is_an_error_that_names_it(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path), one("full_disk_once", Needs(disk_bytes=1000))

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}) as (head, _):
            return await release(head, graph, work)

    (outcome,) = run(scenario()).values()
    assert "no worker has 0.0 GB of disk: the most is 0.0 GB of disk; it was tried: " in outcome.problem.problem
    assert "the disk is full" in outcome.problem.problem


def test_what_passes_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path), Graph([*one("unreachable_once"), *one("always_unreachable")])

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}) as (head, _):
            return await release(head, graph, work)

    once, always = run(scenario()).values()
    assert (once.problem, once.tries) == (None, 2)
    assert always.tries == 3
    assert "the store is unreachable" in always.problem.problem


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        (Needs(labels=frozenset({"macos"})), "no worker has MACOS"),
        (Needs(labels=frozenset({"android:R5CT"})), "no worker has ANDROID:R5CT"),
        (Needs(memory_bytes=90 * GB), "no worker has 90.0 GB of memory: the most is 16.0 GB of memory"),
        (Needs(memory_bytes=12 * GB, disk_bytes=5 * GB), "has no 12.0 GB of memory"),
    ],
)
def test_what_no_machine_has_ends_in_an_error(tmp_path: Path, needs: Needs, missing: str) -> None:
    work = work_in(tmp_path)
    graph = Graph([*one("impossible", needs), *one("stub")])

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {"memory": 16 * GB, "disk": 1 * GB}, {"memory": GB, "disk": 50 * GB}) as (head, _):
            return await release(head, graph, work, Limits(wait_seconds=0.3, tick_seconds=0.1))

    impossible, possible = run(scenario()).values()
    assert f"{impossible.job.name} can be done by nobody: " in impossible.problem.problem
    assert missing in impossible.problem.problem
    assert possible.problem is None


def test_a_machine_that_comes_late_does_what_waited_for_it(tmp_path: Path) -> None:
    work, graph, events = work_in(tmp_path), one("stub", Needs(labels=frozenset({"macos"}))), list[Event]()

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}) as (head, _):
            doing = asyncio.ensure_future(release(head, graph, work, on_progress=events.append))
            await until(lambda: any("waits for a machine" in event.text for event in events if is_notice(event)))
            async with worker(head, tmp_path, "late", {"MACOS": 1}):
                return await doing

    (outcome,) = run(scenario()).values()
    assert outcome.problem is None


def test_a_package_in_another_version_is_not_used(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path, versions={"dask": "1.2.3"}), one("stub")

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}) as (head, _):
            return await release(head, graph, work)

    (outcome,) = run(scenario()).values()
    assert "no worker has dask==1.2.3" in outcome.problem.problem


def test_a_worker_with_another_phipack_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders.matrix.cluster import machine

    own = machine.own_identity()
    other = machine.Identity("f" * 64, own.python, own.version)
    monkeypatch.setattr(machine, "own_identity", lambda: other)  # what offer() sees: the coordinator has its own
    work = work_in(tmp_path)

    async def scenario() -> None:
        async with running(tmp_path, {}) as (head, workers):
            with pytest.raises(ClusterError, match=r"runs phipack .* \(code ffffffffffff\).*; here is phipack") as info:
                await release(head, one("stub"), work)
            assert workers[0].address in info.value.problem

    run(scenario())
    assert written(work) == []


def test_a_job_that_hangs_is_done_elsewhere(tmp_path: Path) -> None:
    work, graph, events = work_in(tmp_path), one("hangs_once"), list[Event]()

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}, {}) as (head, _):
            return await release(head, graph, work, on_progress=events.append)

    (outcome,) = run(scenario()).values()
    assert outcome.problem is None
    assert any("no progress on" in event.text for event in events if isinstance(event, Notice))


def test_a_job_that_always_hangs_ends_in_an_error_that_names_the_machines(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path), one("hangs")

    async def scenario() -> tuple[dict[str, Any], list[str]]:
        async with running(tmp_path, {}, {}) as (head, workers):
            return await release(head, graph, work), [one.address for one in workers]

    outcomes, addresses = run(scenario())
    (outcome,) = outcomes.values()
    assert "build-hangs-4096-00000000 made no progress for 1 s on each of " in outcome.problem.problem
    assert all(address in outcome.problem.problem for address in addresses)


def test_a_job_is_not_silent_that_moves_on(tmp_path: Path) -> None:
    work = work_in(tmp_path, seconds=2.5)

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}) as (head, _):
            return await release(head, one("stub"), work, Limits(silent_seconds=1.6, tick_seconds=0.1))

    (outcome,) = run(scenario()).values()
    assert (outcome.problem, outcome.tries) == (None, 1)


def test_a_scheduler_that_is_lost_is_connected_to_again(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path, seconds=0.05), cells(8)

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {}, protocol="tcp", host="127.0.0.1") as (head, _):
            port = head.port
            doing = asyncio.ensure_future(release(head, graph, work, Limits(tick_seconds=0.1, wait_seconds=10)))
            await until(lambda: len(written(work)) >= 4)
        async with running(tmp_path / "again", {}, protocol="tcp", host="127.0.0.1", port=port):
            return await doing

    outcomes = run(scenario())
    assert all(outcome.problem is None for outcome in outcomes.values())
    assert sorted(written(work)) == sorted(graph.by_name)


def test_a_scheduler_that_stays_away_is_an_error_within_a_bound(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path, seconds=0.05), cells(8)

    async def scenario() -> None:
        async with running(tmp_path, {}, protocol="tcp", host="127.0.0.1") as (head, _):
            doing = asyncio.ensure_future(release(head, graph, work))
            await until(lambda: len(written(work)) >= 2)
        with pytest.raises(ClusterUnreachableError, match="no dask scheduler answers at tcp://127"):
            await doing

    run(scenario())


def test_no_workers_is_an_error_within_a_bound(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (head, _):
            with pytest.raises(ClusterUnreachableError, match="has no workers that answer after 1 s"):
                await release(head, one("stub"), work_in(tmp_path))

    run(scenario())


def test_an_interrupt_ends_the_jobs_that_run_and_drops_the_others(tmp_path: Path) -> None:
    work, graph = work_in(tmp_path, seconds=60), cells(4)

    async def scenario() -> None:
        async with running(tmp_path, {}) as (head, workers):
            doing = asyncio.ensure_future(release(head, graph, work, Limits()))
            await until(lambda: workers[0].state.executing_count)
            doing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await doing
            await until(lambda: not workers[0].state.tasks and not head.tasks)

    run(scenario())
    assert written(work) == []


def test_two_releases_share_a_cluster(tmp_path: Path) -> None:
    """Both have their own store: jobs of one name are not taken for each other's."""
    one_work, other = work_in(tmp_path / "one"), work_in(tmp_path / "other")
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()

    async def scenario() -> None:
        async with running(tmp_path, {}, {}) as (head, _):
            await asyncio.gather(release(head, cells(3), one_work), release(head, cells(3), other))

    run(scenario())
    assert sorted(written(one_work)) == sorted(written(other)) == sorted(cells(3).by_name)


def test_a_job_waits_for_its_share_of_a_device(tmp_path: Path) -> None:
    work = work_in(tmp_path, seconds=0.05)
    needs = Needs(labels=frozenset({"android:R5CT"}))
    graph = Graph(Job(f"measure-{n}", "measure", f"{n:08x}", needs=needs) for n in range(3))

    async def scenario() -> dict[str, Any]:
        async with running(tmp_path, {"ANDROID:R5CT": 1}, {}) as (head, workers):
            outcomes = await release(head, graph, work)
            assert workers[1].state.nthreads == 1
            return outcomes

    assert all(outcome.problem is None for outcome in run(scenario()).values())
    assert QUICK.silence_of(Job("x", "measure", "0", needs=Needs(seconds=10))) == 100


def test_the_address_of_a_cluster_of_this_process_is_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (head, _):
            assert address_of(head).resolve() == head.address

    run(scenario())
