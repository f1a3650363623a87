"""Walk a command's points: at each of them a process of its own is hit, what it left is looked at, and it is run again.

    prepared folder ──copy──> run, hit at point k ──> what holds after any fault? ──> run again ──> done, nothing left

Run with `effects.c` preloaded; asked for walks by lines of JSON on standard input. What is heavy is imported once;
each run is a fork of that state, so a case costs a fraction of a second. Slots walk at the same time. The folder of a
slot has the same path for every case, since registries keep absolute paths.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from devtools.services.postgresql import PostgresqlServer
from devtools.services.seaweedfs import S3Server
from targets.errors import UNREACHABLE_EXIT_CODE
from tests.faults.buckets import start_s3
from tests.faults.commands import COMMANDS, warm
from tests.faults.databases import start_postgresql
from tests.faults.effects import Fault, Point, arm, chosen, read_trace, trace
from tests.faults.ground import Command, Ground
from tests.faults.served import start_site

SLOTS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # with workers, another walks as well
_CASE_SECONDS = 60
_ENDS: dict[Fault, tuple[int, ...]] = {
    "kill": (-signal.SIGKILL, 0),  # 0: threads took another order, and the point was never met
    "interrupt": (130, 0),
    "full": (1, 0),
    "refuse": (1, 0),
}


@dataclass(frozen=True)
class Slot:
    """Where cases run, one after the other: CASE made of PREPARED, and what the last process said."""

    place: Path
    site: str
    postgresql: PostgresqlServer | None = None
    s3: S3Server | None = None

    @property
    def ground(self) -> Ground:
        return Ground(self.place / "case", self.site, self.postgresql, self.s3)

    def prepared(self, command: Command) -> Path:
        return self.place / f"prepared-{id(command)}"

    @property
    def said(self) -> Path:
        return self.place / "said"

    @property
    def problems(self) -> Path:
        return self.place / "problems"

    def reset(self, command: Command) -> None:
        shutil.rmtree(self.ground.folder, ignore_errors=True)
        shutil.copytree(self.prepared(command), self.ground.folder, symlinks=True)
        if command.reset is not None:
            command.reset(self.ground)

    def fork(self, work: Callable[[], int]) -> int:
        """Run in a process of its own, in the case's folder; give its exit code, or minus the signal."""
        child = os.fork()
        if not child:
            os._exit(self._alone(work))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _alone(self, work: Callable[[], int]) -> int:
        """The child: 99 and the traceback in SAID where a check fails."""
        with self.said.open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
        signal.alarm(_CASE_SECONDS)
        os.chdir(self.ground.folder)
        os.environ["TMPDIR"] = str(self.place)
        code = 99
        try:
            code = work()
        except BaseException:  # noqa: BLE001 - told, and the end of this process
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        return code


def prepare(command: Command, slot: Slot) -> None:
    """Make what the command starts from, once."""
    if slot.prepared(command).exists():
        return
    shutil.rmtree(slot.ground.folder, ignore_errors=True)
    slot.ground.folder.mkdir(parents=True)

    def work() -> int:
        command.prepare(slot.ground)
        return 0

    if slot.fork(work):
        raise RuntimeError(f"preparing failed:\n{slot.said.read_text()}")
    slot.ground.folder.rename(slot.prepared(command))


def points_of(command: Command, slot: Slot) -> list[Point]:
    """Run it without a fault, and give what it does."""
    into = slot.place / "trace"

    def work() -> int:
        trace(into, slot.ground.folder)
        return command.run(slot.ground)

    def look() -> int:
        command.done(slot.ground)
        command.tidy(slot.ground)
        return 0

    slot.reset(command)
    if slot.fork(work) or slot.fork(look):
        raise RuntimeError(f"it fails without a fault:\n{slot.said.read_text()}")
    return read_trace(into, slot.ground.folder)


def case(command: Command, fault: Fault, point: Point, slot: Slot) -> str | None:
    """Hit it at one point; say what is wrong then, or nothing."""

    def hit() -> int:
        arm(fault, point.number, slot.ground.folder)
        return command.run(slot.ground)

    def look_and_run_again() -> int:
        (command.done if code == 0 else command.after)(slot.ground)
        if fault == "full":
            (command.told or command.tidy)(slot.ground)
        assert command.again(slot.ground) == 0, "the next try fails"
        command.done(slot.ground)
        command.tidy(slot.ground)
        return 0

    slot.reset(command)
    code = slot.fork(hit)
    said = slot.said.read_text()
    if code not in _ENDS[fault] and not (code == UNREACHABLE_EXIT_CODE and fault == "refuse" and point.on_network):
        return f"{point}: it ended with {code}:\n{said}"
    if code > 0 and any(word in said for word in ("Traceback", "a defect of phipack")):
        return f"{point}: not a sentence:\n{said}"
    if code in (1, UNREACHABLE_EXIT_CODE) and "fix: " not in said:
        return f"{point}: no fix is given:\n{said}"
    if code == 1 and fault == "full" and "space" not in said:
        return f"{point}: it does not speak of the disk:\n{said}"
    if slot.fork(look_and_run_again):
        return f"{point}, which ended with {code}:\n{said}\nand then:\n{slot.said.read_text()}"
    return None


def walk(command: Command, fault: Fault, slots: Sequence[Slot], *, every: bool) -> dict[str, object]:
    """Walk a command; return how many points there are, how many were walked, and the problems."""
    limit = command.limit if fault == "kill" else max(3, command.limit // 4)
    for name in command.imports:
        importlib.import_module(name)
    for slot in slots:
        prepare(command, slot)
    points = points_of(command, slots[0])
    walked = chosen(points, fault, len(points) if every else limit)
    children = []
    for slot in slots:
        slot.problems.unlink(missing_ok=True)
    for number, slot in enumerate(slots):
        child = os.fork()
        if not child:
            problems = [case(command, fault, point, slot) for point in walked[number :: len(slots)]]
            slot.problems.write_text(json.dumps([problem for problem in problems if problem]))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    found = [problem for slot in slots for problem in json.loads(slot.problems.read_text())]
    return {"points": len(points), "walked": len(walked), "problems": found}


def main(place: Path) -> None:
    """Serve walks below a folder until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print is no answer
    site = start_site(place)
    warm(place, site)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the command line had changed it
    gc.freeze()  # so that a fork shares it
    slots = [Slot(place / f"slot{number}", site) for number in range(SLOTS)]
    with ExitStack() as stack:
        for line in sys.stdin:
            asked = json.loads(line)
            command = COMMANDS[asked["command"]]
            if command.service == "postgresql" and slots[0].postgresql is None:
                database = stack.enter_context(start_postgresql())
                slots = [replace(slot, postgresql=database) for slot in slots]
            if command.service == "s3" and slots[0].s3 is None:
                bucket = stack.enter_context(start_s3())
                slots = [replace(slot, s3=bucket) for slot in slots]
            try:
                answer = walk(command, asked["fault"], slots, every=asked["every"])
            except RuntimeError as error:
                answer = {"points": 0, "walked": 0, "problems": [str(error)]}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
