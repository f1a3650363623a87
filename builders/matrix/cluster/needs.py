"""What a job needs of a worker, as dask's resources, and why nobody has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builders.matrix.cluster.machine import DISK, MEMORY, Identity, package_resource
from builders.matrix.graph import Job

_NAMED = 3  # machines that a message names


@dataclass(frozen=True)
class WorkerResources:
    """What the scheduler knows of a worker by now. `name`: for messages. `running`: whether it takes tasks."""

    name: str
    resources: Mapping[str, float]
    running: bool = True


def resources_of(job: Job, packages: Mapping[str, str], identity: Identity) -> dict[str, float]:
    """Return what a job's task takes of its worker while it runs. `packages`: those it needs, with their versions."""
    needed = {identity.resource: 1.0} | {package_resource(name, version): 1.0 for name, version in packages.items()}
    needed |= {label_resource(label): 1.0 for label in job.needs.labels}
    bytes_ = {MEMORY: job.needs.memory_bytes, DISK: job.needs.disk_bytes}
    return needed | {name: float(count) for name, count in bytes_.items() if count}


def label_resource(label: str) -> str:
    """Return the resource of a label: `macos` is MACOS, `android:R5CT` is ANDROID:R5CT."""
    kind, colon, serial = label.partition(":")
    return kind.upper() + colon + serial


def somebody_can(needed: Mapping[str, float], workers: list[WorkerResources]) -> bool:
    """Return whether one worker that takes tasks offers all of it."""
    return any(worker.running and not _shortfalls(needed, worker.resources) for worker in workers)


def why_nobody(needed: Mapping[str, float], workers: list[WorkerResources]) -> str:
    """Say what is missing: on every worker, or on each of those that miss least."""
    if not workers:
        return "the cluster has no workers"
    missing = [(worker, _shortfalls(needed, worker.resources)) for worker in workers]
    if everywhere := set.intersection(*(set(short) for _, short in missing)):
        wanted = " or ".join(_amount(name, needed[name]) for name in sorted(everywhere))
        return f"no worker has {wanted}{_most(everywhere, workers)}"
    nearest = sorted(missing, key=lambda pair: len(pair[1]))[:_NAMED]
    return "; ".join(f"{worker.name} {_reason(worker, short, needed)}" for worker, short in nearest)


def _reason(worker: WorkerResources, short: list[str], needed: Mapping[str, float]) -> str:
    if not short:
        return "could do it" if worker.running else "takes no tasks: it is paused, or closing"
    return f"has no {', no '.join(_amount(name, needed[name]) for name in short)}"


def _shortfalls(needed: Mapping[str, float], offered: Mapping[str, float]) -> list[str]:
    return sorted(name for name, quantity in needed.items() if offered.get(name, 0.0) < quantity)


def _most(names: set[str], workers: list[WorkerResources]) -> str:
    """Add the most that there is of what is counted in bytes."""
    counted = [name for name in (MEMORY, DISK) if name in names]
    most = [f"{max(one.resources.get(name, 0.0) for one in workers) / 1e9:.1f} GB of {name}" for name in counted]
    return f": the most is {' and '.join(most)}" if most else ""


def _amount(name: str, quantity: float) -> str:
    if name in (MEMORY, DISK):
        return f"{quantity / 1e9:.1f} GB of {name}"
    return name
