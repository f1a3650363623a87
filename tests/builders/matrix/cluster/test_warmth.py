"""Jobs go where the checkpoint has been read, and not only there."""

from __future__ import annotations

from pathlib import Path

from builders.matrix.cluster.coordinator import JobOutcome
from builders.matrix.graph import Graph, Job, Needs
from devtools.stub_jobs import ANY, StubWork, cells
from tests.builders.matrix.cluster.clusters import release, run, running, work_in

ON_THE_LAST = Needs(labels=frozenset({"android:R5CT"}))


def build(number: int, needs: Needs = ANY) -> Graph:
    return Graph([Job(f"build-{number}", "build", f"{number:08x}", (), (f"cell-{number}",), needs, recipe="stub")])


def machines(work: StubWork) -> list[str]:
    """Return the folder of the machine that did each job, in order."""
    return [line.split()[4] for line in work.log.read_text().splitlines() if line.startswith("started")]


def test_a_job_goes_to_the_worker_that_has_read_the_checkpoint(tmp_path: Path) -> None:
    work = work_in(tmp_path)

    async def scenario() -> None:
        async with running(tmp_path, {}, {}, {}, {"ANDROID:R5CT": 1}) as (head, _):
            await release(head, build(0, ON_THE_LAST), work)
            for number in range(1, 6):
                await release(head, build(number), work)

    run(scenario())
    assert len(machines(work)) == 6
    assert len(set(machines(work))) == 1


def test_a_free_worker_does_not_wait_for_the_one_that_has_read_it(tmp_path: Path) -> None:
    work = work_in(tmp_path, seconds=0.2)

    async def scenario() -> None:
        async with running(tmp_path, {}, {}) as (head, _):
            await release(head, build(0), work)
            await release(head, cells(6), work)

    run(scenario())
    assert len(set(machines(work))) == 2


def test_the_reader_that_is_lost_is_no_loss_to_the_release(tmp_path: Path) -> None:
    work = work_in(tmp_path, seconds=0.05)

    async def scenario() -> dict[str, JobOutcome]:
        async with running(tmp_path, {}, {}) as (head, workers):
            await release(head, build(0), work)
            reader = next(one for one in workers if str(one.local_directory).split("/dask")[0] in machines(work)[0])
            await reader.close()
            return await release(head, cells(3), work)

    assert all(outcome.problem is None for outcome in run(scenario()).values())
    assert len(set(machines(work))) == 2
