"""The cluster's workers: who is there, what each offers, and who is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from builders.matrix.cluster.course import Limits, SchedulerLostError
from builders.matrix.cluster.machine import Identity, Machine, machine_from, offer, own_identity
from builders.matrix.cluster.needs import WorkerResources
from targets.errors import ClusterUnreachableError

_SILENT_TIMES = 4  # a worker that is too busy to answer is asked again after so many times the wait for it


@dataclass
class Roster:
    """The workers of one connection.

    Attributes:
        packages: names of packages whose versions the workers are asked for.
        machines: those that were asked and can be used, by address.
        refused: why the others can't, by address.
        workers: resources of all that are there, as the scheduler knows them by now.
        silent_until: when to ask those again that did not answer, by address.
        has_changed: whether any has offered or withdrawn something since that was last set to False.
    """

    client: Any
    packages: tuple[str, ...]
    limits: Limits
    identity: Identity = field(default_factory=own_identity)
    machines: dict[str, Machine] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    workers: dict[str, WorkerResources] = field(default_factory=dict)
    silent_until: dict[str, float] = field(default_factory=dict)
    has_changed: bool = False

    async def first(self) -> None:
        """Wait for a worker, and ask all that are there. Raises `ClusterUnreachableError`, `SchedulerLostError`."""
        until = time.monotonic() + self.limits.wait_seconds
        while not await self.refresh() or not (self.machines or self.refused):
            if time.monotonic() > until:
                raise ClusterUnreachableError(
                    f"the cluster at {self.client.scheduler.address} has no workers that answer after "
                    f"{self.limits.wait_seconds:.0f} s",
                    fix="start some: dask worker SCHEDULER --nthreads 1 (docs/cluster.md)",
                )
            await asyncio.sleep(min(self.limits.tick_seconds, 0.5))

    async def refresh(self) -> list[str]:
        """Look who is there, ask who is new, and return all addresses. Raises `SchedulerLostError`."""
        listed = await self._listed()
        known, now = self.machines.keys() | self.refused.keys(), time.monotonic()
        new = [one for one in listed if one not in known and self.silent_until.get(one, 0.0) <= now]
        if new:
            await self._ask_all(new)
            listed = await self._listed()
        self.workers = {address: self._resources(address, facts) for address, facts in listed.items()}
        return list(listed)

    def name(self, address: str) -> str:
        """Return what messages call a worker."""
        machine = self.machines.get(address)
        return address if machine is None else str(machine)

    async def ask(self, address: str, function: Callable[..., Any], **arguments: Any) -> Any:
        """Run a function of machine.py on one worker; return its result, or the exception that came instead."""
        call = self.client.run(function, workers=[address], on_error="return", **arguments)
        try:
            async with asyncio.timeout(self.limits.call_seconds):
                answers = await call
        except (OSError, TimeoutError) as error:
            return error
        return answers.get(address, LookupError(f"{address} is gone"))

    async def unplaced(self, keys: Iterable[str]) -> set[str]:
        """Return those of some tasks for which the scheduler knows no worker. Raises `SchedulerLostError`."""
        states = await self._scheduler(self.client.scheduler.get_task_status(keys=list(keys)))
        return {key for key, state in states.items() if state == "no-worker"}

    async def restart(self, address: str) -> None:
        """End a worker's process. Its nanny starts another; without one, the worker is gone."""
        # What Client.restart_workers calls, which refuses workers without a nanny.
        call = self.client.scheduler.restart_workers(
            workers=[address],
            timeout=self.limits.call_seconds,
            wait_for_workers=False,
            on_error="return",
            stimulus_id=f"phipack-hung-{time.time()}",
        )
        try:
            async with asyncio.timeout(2 * self.limits.call_seconds):
                await call
        except (OSError, TimeoutError) as error:
            raise SchedulerLostError(f"it does not end {address}: {error}") from error

    async def _ask_all(self, addresses: Iterable[str]) -> None:
        await asyncio.gather(*(self._ask_one(address) for address in addresses))

    async def _ask_one(self, address: str) -> None:
        facts = await self.ask(address, offer, identity=self.identity, packages=self.packages)
        if isinstance(facts, OSError | LookupError):  # TimeoutError is an OSError; the worker may also have left
            self.silent_until[address] = time.monotonic() + _SILENT_TIMES * self.limits.call_seconds
            return
        if isinstance(facts, BaseException):
            self.refused[address] = _unusable(address, facts)
            return
        try:
            machine = machine_from(facts)
        except (KeyError, TypeError):
            self.refused[address] = f"{address} runs another phipack"
            return
        if machine.identity == self.identity:
            self.machines[address] = machine
            self.has_changed = True
        else:
            self.refused[address] = f"{machine} runs {machine.identity}"

    async def _listed(self) -> dict[str, dict[str, Any]]:
        """Ask the scheduler for its workers. Raises `SchedulerLostError`."""
        answer = await self._scheduler(self.client.scheduler.identity(n_workers=-1))
        workers: dict[str, dict[str, Any]] = answer["workers"]
        return workers

    async def _scheduler(self, call: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self.limits.call_seconds):
                return await call
        except (OSError, TimeoutError) as error:
            raise SchedulerLostError(f"it does not answer: {error}") from error

    def _resources(self, address: str, facts: dict[str, Any]) -> WorkerResources:
        running = facts.get("status", "running") == "running"
        return WorkerResources(self.name(address), facts.get("resources", {}), running)


def _unusable(address: str, error: BaseException) -> str:
    if isinstance(error, ImportError | AttributeError):
        return f"{address} has no phipack, or another one: {error}"
    return f"{address} does not answer: {type(error).__name__}: {error}".rstrip(": ")
