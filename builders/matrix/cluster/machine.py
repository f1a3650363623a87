"""What a worker is and offers. `offer` runs on the worker; what it finds becomes dask's resources there.

    phipack-3f2a…-py3.11    1        this code under this Python: one job at a time in a worker's process
    gguf==0.19.0            many     a package in this version
    memory, disk            bytes    the worker's share of the memory; what its disk has free
    MACOS                   many     a Mac
    ANDROID, ANDROID:SERIAL 1        a phone on adb: one job at a time

A resource that the worker was started with (`dask worker --resources "memory=16e9"`) stays as it is.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from builders.devices.adb.client import states
from builders.own_code import own_code_digest
from registry.files.staging import free_bytes
from targets.errors import PhipackError
from targets.installation import PACKAGE, installed_version, requirements

MANY = 1e9  # of what does not run out
MEMORY, DISK, MACOS, ANDROID = "memory", "disk", "MACOS", "ANDROID"
_CODE_LENGTH = 12


@dataclass(frozen=True)
class Identity:
    """What must be the same on the coordinator and on a worker: phipack's own code, and Python's version."""

    code: str
    python: str
    version: str

    @property
    def resource(self) -> str:
        """The resource that only workers of this identity offer."""
        return f"{PACKAGE}-{self.code[:_CODE_LENGTH]}-py{self.python}"

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"phipack {self.version} (code {self.code[:_CODE_LENGTH]}) on Python {self.python}"


def own_identity() -> Identity:
    """Return the identity of this process."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Identity(own_code_digest(), python, installed_version(PACKAGE) or "from a checkout")


@dataclass(frozen=True)
class Machine:
    """A worker, as it describes itself.

    Attributes:
        address: of the worker; its name on the scheduler.
        host: name of the machine it runs on.
        system: operating system with its version, and architecture.
        identity: its phipack and Python.
        packages: version of each package that was asked for, where it is installed.
        extras: of phipack, those that are installed completely.
        devices: serials of the phones on its adb.
        threads: that dask runs tasks on.
        memory_bytes: its share of the machine's memory.
        disk_bytes: free in `folder`.
        folder: where it works.
        checkpoints: digests of those that this process has verified.
        resources: what it offers.
    """

    address: str
    host: str
    system: str
    identity: Identity
    packages: dict[str, str]
    extras: list[str]
    devices: list[str]
    threads: int
    memory_bytes: int
    disk_bytes: int
    folder: str
    checkpoints: list[str]
    resources: dict[str, float]

    def __str__(self) -> str:
        """Return the name that messages use."""
        return f"{self.host} ({self.address})"


@dataclass
class WorkerState:
    """What this process knows of one of its workers.

    Attributes:
        offered: names of resources that `offer` has set.
        withdrawn: the most of a resource that is still to be had, until `offer` is called again.
        checkpoints: digests that were verified here.
    """

    offered: set[str] = field(default_factory=set)
    withdrawn: dict[str, float] = field(default_factory=dict)
    checkpoints: set[str] = field(default_factory=set)


_ONE_AT_A_TIME = threading.Lock()  # a process with many workers reads its own code once
_STATES: WeakKeyDictionary[Any, WorkerState] = WeakKeyDictionary()


def state_of(worker: Any) -> WorkerState:
    """Return what is known of a worker of this process."""
    return _STATES.setdefault(worker, WorkerState())


def work_folder(worker: Any) -> Path:
    """Return where a worker keeps what outlives a job: next to its scratch folder, shared by the machine's workers."""
    return Path(worker.local_directory).parent / PACKAGE


async def offer(identity: Identity, packages: tuple[str, ...], dask_worker: Any) -> dict[str, Any]:
    """Describe this worker and, where it has the coordinator's identity, offer dask what it has. Runs on the worker.

    `packages`: names of those whose versions matter. Returns the attributes of a `Machine`, as plain data.
    """
    facts = await asyncio.to_thread(_facts, dask_worker, packages)
    state = state_of(dask_worker)
    state.withdrawn.clear()
    if own_identity() == identity:
        mine = _resources(facts)
        given = {name for name in dask_worker.state.total_resources if name not in state.offered}
        offered = {name: quantity for name, quantity in mine.items() if name not in given}
        gone = dict.fromkeys(state.offered - offered.keys(), 0.0)
        state.offered |= offered.keys()
        await dask_worker.set_resources(**gone, **offered)
    facts["resources"] = dict(dask_worker.state.total_resources)
    return facts


async def withdraw(resource: str, most: float, dask_worker: Any) -> None:
    """Let the scheduler place nothing here that needs more than `most` of a resource. Runs on the worker.

    Its own count of the resource stays, so that tasks that wait here are started, and sent elsewhere (`task.py`).
    """
    state_of(dask_worker).withdrawn[resource] = most
    left = dask_worker.state.total_resources | state_of(dask_worker).withdrawn
    await dask_worker.scheduler.set_resources(resources=left, worker=dask_worker.contact_address)


def _facts(worker: Any, packages: tuple[str, ...]) -> dict[str, Any]:
    with _ONE_AT_A_TIME:
        return _found(worker, packages)


def _found(worker: Any, packages: tuple[str, ...]) -> dict[str, Any]:
    identity, folder = own_identity(), work_folder(worker)
    versions = {name: version for name in packages if (version := installed_version(name)) is not None}
    return {
        "address": worker.address,
        "host": socket.gethostname(),
        "system": _system(),
        "identity": {"code": identity.code, "python": identity.python, "version": identity.version},
        "packages": versions,
        "extras": _extras(),
        "devices": _devices(),
        "threads": worker.state.nthreads,
        "memory_bytes": worker.memory_manager.memory_limit or memory_bytes(),
        "disk_bytes": free_bytes(folder),
        "folder": str(folder),
        "checkpoints": sorted(state_of(worker).checkpoints),
        "resources": {},
    }


def machine_from(facts: Mapping[str, Any]) -> Machine:
    """Return a worker's description of itself. Raises `TypeError`, `KeyError` where another phipack has made it."""
    return Machine(**{**facts, "identity": Identity(**facts["identity"])})


def package_resource(name: str, version: str) -> str:
    """Return the resource that a worker offers which has a package in this version."""
    return f"{name}=={version}"


def _resources(facts: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {
        own_identity().resource: 1.0,
        MEMORY: float(facts["memory_bytes"]),
        DISK: float(facts["disk_bytes"]),
    }
    found |= {package_resource(name, version): MANY for name, version in facts["packages"].items()}
    if sys.platform == "darwin":
        found[MACOS] = MANY
    if facts["devices"]:
        found[ANDROID] = float(len(facts["devices"]))
        found |= {f"{ANDROID}:{serial}": 1.0 for serial in facts["devices"]}
    return found


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@cache
def _extras() -> list[str]:
    """Return the extras whose packages are all here, in versions that fit."""
    complete: dict[str, bool] = {}
    for one in requirements():
        if one.extra:
            found = installed_version(one.package)
            complete[one.extra] = complete.get(one.extra, True) and found is not None and one.allows(found)
    return [extra for extra, has_all in complete.items() if has_all]


def _devices() -> list[str]:
    """Return the serials of the phones that adb can use now; none where there is no adb, or it does not answer."""
    if shutil.which("adb") is None:
        return []
    try:
        return sorted(serial for serial, state in states().items() if state == "device")
    except PhipackError:
        return []
