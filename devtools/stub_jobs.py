"""Jobs that do nothing but keep a record in a store, or fail in a way that their recipe's name says."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builders.matrix.cluster.task import Place, UnfitMachineError
from builders.matrix.graph import Graph, Job, Needs
from registry.store.protocol import Store
from registry.store.uris import open_store
from targets.errors import BuildError, StoreUnreachableError
from targets.progress import Step


@dataclass(frozen=True)
class StubWork:
    """Implements `Work`: a job sleeps, or burns so many seconds of a processor, then writes its record.

    `log`: a line for each start of work, and for each record written: what, the job, when, the process, the machine's
    folder.
    """

    store: str
    log: Path
    seconds: float = 0.0
    burns: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    checkpoint_digest: str = "sha256:stub"

    def packages(self, job: Job) -> Mapping[str, str]:  # noqa: ARG002
        return self.versions

    def is_done(self, job: Job) -> bool:
        return _store(self.store).read_document(record_name(job)) is not None

    def run(self, job: Job, place: Place) -> None:
        place.checkpoints.add(self.checkpoint_digest)
        if self.is_done(job):
            return
        for name in job.after:
            place.on_progress(Step("after", 1, 1, subject=name))
        FAULTS.get(job.recipe, _nothing)(job, place, self)
        self._note("started", job, place)
        clock = time.thread_time if self.burns else time.monotonic
        begun = clock()
        while True:
            place.on_progress(Step("work", 0, 1))
            if (spent := clock() - begun) >= self.seconds:
                break
            if self.burns:
                sum(range(200_000))
            else:
                time.sleep(min(0.02, self.seconds - spent))
        if _store(self.store).write_document(record_name(job), job.name.encode(), replacing=None):
            self._note("recorded", job, place)

    def _note(self, what: str, job: Job, place: Place) -> None:
        with self.log.open("a") as log:
            log.write(f"{what} {job.name} {time.time()} {os.getpid()} {place.folder}\n")


def record_name(job: Job) -> str:
    """Return the path of a job's record in the store."""
    return f"actions/{job.kind}/{job.key}.json"


HANGING = threading.Event()  # set, it ends what hangs in this process
_STORES: dict[str, Store] = {}


def _store(uri: str) -> Store:
    if uri not in _STORES:
        _STORES[uri] = open_store(uri)
    return _STORES[uri]


ANY = Needs()


def cells(count: int, recipe: str = "stub", needs: Needs = ANY) -> Graph:
    """A build and a validation for each of some cells."""
    jobs = []
    for number in range(count):
        key, cell = f"{number:08x}", f"cell-{number}"
        build = Job(f"build-{recipe}-4096-{key}", "build", key, (), (cell,), needs, recipe=recipe)
        jobs += [build, Job(f"validate-{recipe}-4096-{key}", "validate", key, (build.name,), (cell,), recipe=recipe)]
    return Graph(jobs)


def one(recipe: str, needs: Needs = ANY) -> Graph:
    """One build."""
    return Graph([Job(f"build-{recipe}-4096-{0:08x}", "build", recipe, (), ("cell",), needs, recipe=recipe)])


Fault = Callable[[Job, Place, StubWork], None]


def _nothing(_job: Job, _place: Place, _work: StubWork) -> None:
    return


def _refused(_job: Job, _place: Place, _work: StubWork) -> None:
    raise BuildError("the recipe does not apply", fix="choose another one")


def _unreachable_once(_job: Job, _place: Place, work: StubWork) -> None:
    if _first(work):
        raise StoreUnreachableError("the store is unreachable", fix="try again")


def _always_unreachable(_job: Job, _place: Place, _work: StubWork) -> None:
    raise StoreUnreachableError("the store is unreachable", fix="try again")


def _full_disk_once(_job: Job, _place: Place, work: StubWork) -> None:
    if _first(work):
        raise BuildError("the disk is full", fix="free space") from OSError(errno.ENOSPC, "No space left on device")


def _unfit_machine_once(_job: Job, _place: Place, work: StubWork) -> None:
    if _first(work):
        raise UnfitMachineError("the checkpoint is missing", fix="copy it there")


def _hangs_once(job: Job, place: Place, work: StubWork) -> None:
    if _first(work):
        _hangs(job, place, work)


def _hangs(_job: Job, _place: Place, _work: StubWork) -> None:
    HANGING.wait(600)


def _dies_once(_job: Job, _place: Place, work: StubWork) -> None:
    if _first(work):
        os._exit(9)


def _dies(_job: Job, _place: Place, _work: StubWork) -> None:
    os._exit(9)


def _first(work: StubWork) -> bool:
    """True for the first who asks."""
    try:
        work.log.with_suffix(".first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


FAULTS: dict[str, Fault] = {
    "refused": _refused,
    "unreachable_once": _unreachable_once,
    "always_unreachable": _always_unreachable,
    "full_disk_once": _full_disk_once,
    "unfit_once": _unfit_machine_once,
    "hangs_once": _hangs_once,
    "hangs": _hangs,
    "dies_once": _dies_once,
    "dies": _dies,
}
