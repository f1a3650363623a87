"""Walk a command's points: at each of them a process of its own is hit, what it left is looked at, and it is run again.

    prepared folder ──copy──> run, hit at point k ──> what holds after any fault? ──> run again ──> done, nothing left

Run with `effects.c` preloaded; asked for walks by lines of JSON on standard input. What is heavy is imported once, and
each walk begins with a run without a fault, whose compiled statements stay; each case is a fork of that state, so it
costs a fraction of a second. The folder has the same path for every case, since registries keep absolute paths.
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
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from devtools.services.postgresql import PostgresqlServer
from devtools.services.seaweedfs import S3Server
from targets.errors import UNREACHABLE_EXIT_CODE
from tests.faults import reading
from tests.faults.buckets import start_s3
from tests.faults.commands import COMMANDS, close_databases, warm
from tests.faults.databases import start_postgresql
from tests.faults.effects import Fault, Point, Which, arm, chosen, distinct, felt, read_trace, thinned, trace
from tests.faults.ground import Command, Ground, phipack
from tests.faults.served import start_site
from tests.support.folders import contents

_CASE_SECONDS = 300  # a hang, whatever else the machine does
_ENDS: dict[Fault, tuple[int, ...]] = {
    "kill": (-signal.SIGKILL, 0),  # 0: threads took another order, and the point was never met
    "interrupt": (130, 0),
    "full": (1, 0),
    "refuse": (1, 0),
}


@dataclass(frozen=True)
class Slot:
    """Where cases run, one after the other: `case`, a copy of what was prepared, and what the last process said."""

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
    def answer(self) -> Path:
        return self.place / "answer"

    def looked(self, command: Command) -> int:
        """Hold a run that ended without a fault to what is done then; 0, or it raises."""
        command.done(self.ground)
        command.tidy(self.ground)
        return 0

    def reset(self, command: Command) -> None:
        shutil.rmtree(self.ground.folder, ignore_errors=True)
        shutil.copytree(self.prepared(command), self.ground.folder, symlinks=True)
        if command.reset is not None:
            command.reset(self.ground)

    def fork(self, work: Callable[[], int]) -> int:
        """Run in a process of its own, in the case's folder; give its exit code, or minus the signal."""
        child = os.fork()
        if not child:
            os._exit(self.alone(work))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def alone(self, work: Callable[[], int]) -> int:
        """Run in this process, a child; 99 and the traceback in SAID where a check fails."""
        with self.said.open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the command line had changed it
        signal.alarm(_CASE_SECONDS)
        os.chdir(self.ground.folder)
        os.environ["TMPDIR"] = str(self.place)
        code = 99
        try:
            code = work()
        except BaseException:  # noqa: BLE001 - reported, and the end of this process
            traceback.print_exc()
        signal.alarm(0)
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

    slot.reset(command)
    if slot.fork(work) or slot.fork(lambda: slot.looked(command)):
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
        return slot.looked(command)

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


def walk(command: Command, fault: Fault, slot: Slot, *, which: Which, most: int | None = None) -> dict[str, object]:
    """Walk a command; return how many points there are, how many were walked, and the problems.

    `most`: of more points than that, every second is walked, or every third, …
    """
    for name in command.imports:
        importlib.import_module(name)
    prepare(command, slot)
    slot.answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os._exit(_walk_warmed(command, fault, slot, which=which, most=most))
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"it fails without a fault:\n{slot.said.read_text()}")
    answer: dict[str, object] = json.loads(slot.answer.read_text())
    return answer


def _walk_warmed(command: Command, fault: Fault, slot: Slot, *, which: Which, most: int | None) -> int:
    """The child of a walk: it runs the command once itself, so that each case begins with what that has compiled."""
    limit = max(3, command.limit if fault == "kill" else command.limit // 4)
    slot.reset(command)
    if slot.alone(lambda: command.run(slot.ground) or slot.looked(command)):
        return 1
    close_databases()
    gc.collect()
    gc.freeze()
    points = points_of(command, slot)
    walked = {
        "sample": lambda: chosen(points, fault, limit),
        "distinct": lambda: distinct(felt(points, fault)),
        "all": lambda: felt(points, fault),
    }[which]()
    walked = thinned(walked, most)
    problems = [problem for point in walked if (problem := case(command, fault, point, slot))]
    answer = {"points": len(points), "felt": len(felt(points, fault)), "walked": len(walked), "problems": problems}
    slot.answer.write_text(json.dumps(answer))
    return 0


def changed_by_reading(slot: Slot) -> dict[str, list[str]]:
    """Run the commands that only read; return the files that each of them changes, makes or removes, by its name."""
    prepared = replace(COMMANDS["publish"], prepare=reading.prepare)
    prepare(prepared, slot)
    before, found = contents(slot.prepared(prepared)), {}
    for name, words in reading.READING.items():

        def work(words: tuple[str, ...] = (*name.split(), *words)) -> int:
            return phipack(*words)(slot.ground)

        slot.reset(prepared)
        if slot.fork(work):
            raise RuntimeError(f"phipack {name} fails:\n{slot.said.read_text()}")
        after = contents(slot.ground.folder)
        found[name] = sorted(path for path in before.keys() | after if before.get(path) != after.get(path))
    return found


def main(place: Path) -> None:
    """Serve walks below a folder until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print is no answer
    site = start_site(place)
    warm(place, site)
    gc.freeze()  # so that a fork shares it
    slot = Slot(place / "slot", site)
    with ExitStack() as stack:
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["command"] is None:
                print(json.dumps(changed_by_reading(slot)), file=answers, flush=True)
                continue
            command = COMMANDS[asked["command"]]
            if command.service == "postgresql" and slot.postgresql is None:
                slot = replace(slot, postgresql=stack.enter_context(start_postgresql()))
            if command.service == "s3" and slot.s3 is None:
                slot = replace(slot, s3=stack.enter_context(start_s3()))
            answer: dict[str, object]
            try:
                answer = walk(command, asked["fault"], slot, which=asked["which"], most=asked["most"])
            except RuntimeError as error:
                answer = {"points": 0, "felt": 0, "walked": 0, "problems": [str(error)]}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
