"""Which workers have read the checkpoint: a small result that each of them holds, so that dask prefers them.

Every job depends on it. dask places a task where it starts first, and among workers that are equally free where least
must be sent: at a worker that has done a job of this checkpoint. One that is free and has not read it still comes
before one that has and is busy: reading takes seconds to minutes, a job minutes to hours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed.client import FuturesCancelledError
from distributed.scheduler import KilledWorker

from builders.matrix.cluster.machine import Machine

# Above what other results weigh, and below 1 MB: from there on dask counts a transfer when it estimates its bandwidth.
_NOMINAL_BYTES = 900_000


@dataclass(frozen=True)
class CheckpointRead:
    """Held by the workers that have done a job of a checkpoint. Its size is what dask counts."""

    checkpoint: str

    def __sizeof__(self) -> int:
        return _NOMINAL_BYTES


async def hold_checkpoint_read(client: Any, checkpoint: str, machines: Mapping[str, Machine], seconds: float) -> Any:
    """Have a worker hold the result, one that has read the checkpoint if there is any. Return dask's future.

    None where no worker takes it within `seconds`: jobs then go wherever they start first. If the worker is lost, dask
    makes the result again on another.
    """
    if not machines:
        return None
    readers = [address for address, machine in machines.items() if checkpoint in machine.checkpoints]
    identity = next(iter(machines.values())).identity
    future = client.submit(
        CheckpointRead,
        checkpoint,
        key=f"read-{checkpoint}",
        workers=readers or list(machines),
        allow_other_workers=True,
        resources={identity.resource: 1.0},
    )
    try:
        async with asyncio.timeout(seconds):
            await future
    except (OSError, TimeoutError, FuturesCancelledError, KilledWorker):
        return None
    return future
