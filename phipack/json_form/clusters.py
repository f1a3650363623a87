"""The form of `workers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from phipack.json_form.form import Form

if TYPE_CHECKING:
    from builders.matrix.cluster.machine import Machine
    from builders.matrix.cluster.survey import Survey


class WorkerForm(Form):
    """One worker."""

    address: str
    host: str
    system: str = Field(description="operating system with its version, and architecture")
    phipack: str
    code: str = Field(description="digest of phipack's own code, the same on all workers")
    python: str
    packages: dict[str, str] = Field(description="version of each package that a build or a measurement depends on")
    extras: list[str] = Field(description="of phipack, those that are installed completely")
    devices: list[str] = Field(description="serials of the phones on its adb")
    threads: int
    memory_bytes: int
    disk_bytes: int = Field(description="free, where it works")
    folder: str = Field(description="where it works")
    checkpoints: list[str] = Field(description="digests of those that it has verified")
    resources: dict[str, float] = Field(description="what it offers dask")


class UnableForm(Form):
    """A job that no worker can do."""

    job: str
    cells: list[str]
    why: str


class WorkersForm(Form):
    """A cluster as it is now."""

    scheduler: str
    dashboard: str | None
    workers: list[WorkerForm]
    refused: list[str] = Field(description="why other workers can't be used")
    unable: list[UnableForm]


def workers_form(found: Survey) -> WorkersForm:
    """Describe a cluster."""
    unable = [UnableForm(job=job.name, cells=list(job.cells), why=why) for job, why in found.unable]
    return WorkersForm(
        scheduler=found.scheduler,
        dashboard=found.dashboard,
        workers=[_worker_form(one) for one in found.machines],
        refused=list(found.refused),
        unable=unable,
    )


def _worker_form(one: Machine) -> WorkerForm:
    return WorkerForm(
        address=one.address,
        host=one.host,
        system=one.system,
        phipack=one.identity.version,
        code=one.identity.code,
        python=one.identity.python,
        packages=one.packages,
        extras=one.extras,
        devices=one.devices,
        threads=one.threads,
        memory_bytes=one.memory_bytes,
        disk_bytes=one.disk_bytes,
        folder=one.folder,
        checkpoints=one.checkpoints,
        resources=one.resources,
    )
