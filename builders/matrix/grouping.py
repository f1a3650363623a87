"""Jobs grouped for a CI matrix: each group is one job of the CI, on one machine.

What shares a read of the checkpoint goes together, and a bundle's validation follows its build on the same machine, as
the entries of a matrix can't wait for each other. For the same reason a calibration is in every group that has a build
that needs it: who records it first does it for all that come later. A group's names are those of its last jobs:
`release --job` does what they come after, too, where that is not done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builders.matrix.graph import KINDS, Graph, Job

BUNDLES_OF_A_GROUP = 3  # as many builds as run at once from one read (`work.py`)
MOST_GROUPS = 256  # of a matrix in GitHub Actions


@dataclass(frozen=True)
class Group:
    """Jobs that one machine does. `jobs`: in order; those that are done already are left out."""

    jobs: tuple[Job, ...]

    @property
    def last_jobs(self) -> tuple[Job, ...]:
        """The jobs that no other job of the group comes after."""
        before = {name for job in self.jobs for name in job.after}
        return tuple(job for job in self.jobs if job.name not in before)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the machine must be, sorted; empty where any will do."""
        return tuple(sorted({label for job in self.jobs for label in job.needs.labels}))

    @property
    def name(self) -> str:
        """Readable, and the same for the same jobs."""
        first, *others = self.last_jobs
        name = first.name.partition("-")[2]
        return f"{name}-and-{len(others)}-more" if others else name

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells whose bundles its jobs are for: a calibration is for more cells than are built with it here."""
        of_bundles = (job for job in self.jobs if job.kind != "calibrate")
        return tuple(dict.fromkeys(cell for job in of_bundles for cell in job.cells))

    @property
    def seconds(self) -> float:
        """Estimate of all jobs one after another."""
        return sum(job.needs.seconds for job in self.jobs)

    @property
    def memory_bytes(self) -> int:
        """Estimate of the peak: builds run at once, validations alone."""
        builds = sum(job.needs.memory_bytes for job in self.jobs if job.kind == "build")
        return max(builds, *(job.needs.memory_bytes for job in self.jobs))

    @property
    def disk_bytes(self) -> int:
        """Estimate of the work folder's peak."""
        builds = sum(job.needs.disk_bytes for job in self.jobs if job.kind == "build")
        return max(builds, *(job.needs.disk_bytes for job in self.jobs))


def group_jobs(graph: Graph, *, shards: int | None = None, most: int = MOST_GROUPS) -> tuple[Group, ...]:
    """Group the pending jobs; none where all are done.

    Args:
        graph: all jobs.
        shards: make at most so many groups for each kind of machine, of about the same time; by default one for every
            few bundles.
        most: the most groups in all, at least one for each kind of machine.
    """
    chains: dict[tuple[str, ...], list[Group]] = {}
    for chain in _chains(graph):
        chains.setdefault(chain.labels, []).append(chain)
    if not chains:
        return ()
    share = max(1, most // len(chains))
    groups: list[Group] = []
    for labels in sorted(chains):
        found = chains[labels]
        count = min(share, len(found), shards or math.ceil(len(found) / BUNDLES_OF_A_GROUP))
        groups += _balanced(found, count)
    return tuple(groups)


def with_what_comes_before(graph: Graph, jobs: Iterable[Job]) -> tuple[Job, ...]:
    """Return jobs with all that they come after and that is not done, in order."""
    wanted = {job.name for job in jobs}
    for job in reversed(graph.jobs):
        if job.name in wanted:
            wanted.update(name for name in job.after if not graph.by_name[name].is_done)
    return tuple(job for job in graph if job.name in wanted)


def _chains(graph: Graph) -> Sequence[Group]:
    """Return the pending jobs of each bundle, its calibrations first; its measurements apart: they need devices."""
    by_bundle: dict[tuple[str, str], list[Job]] = {}
    for job in graph.pending:
        if job.kind == "build":
            before = [graph.by_name[name] for name in job.after]
            by_bundle[job.name, ""] = [*(one for one in before if not one.is_done), job]
        elif job.kind != "calibrate":
            apart = job.name if job.kind == "measure" else ""
            by_bundle.setdefault((job.after[0], apart), []).append(job)
    return [Group(tuple(jobs)) for jobs in by_bundle.values()]


def _balanced(chains: Sequence[Group], count: int) -> list[Group]:
    """Merge chains into groups of about the same time: the longest first, each into the shortest group so far."""
    bins: list[list[Group]] = [[] for _ in range(count)]
    for chain in sorted(chains, key=lambda one: -one.seconds):
        min(bins, key=lambda some: (_merged([*some, chain]).seconds, len(some))).append(chain)
    position = {chain.last_jobs[0].name: place for place, chain in enumerate(chains)}
    merged = [_merged(sorted(some, key=lambda one: position[one.last_jobs[0].name])) for some in bins]
    return sorted(merged, key=lambda group: position[group.last_jobs[0].name])


def _merged(chains: Sequence[Group]) -> Group:
    """Return one group of the jobs of several: calibrations, each once, then builds, then what comes after them."""
    jobs = dict.fromkeys(job for chain in chains for job in chain.jobs)
    return Group(tuple(sorted(jobs, key=lambda job: KINDS.index(job.kind))))
