"""A machine whose clock is wrong by a day: leases, leftovers and histories go by none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.files.staging import staged_folder
from registry.ledger.lease import Timing, held
from registry.ledger.ledger import open_ledger
from registry.promotion import history, promote, rollback
from registry.store.folder import FolderStore
from targets.errors import RegistryError
from targets.references import Reference
from tests.faults.lease_files import TIMING, Files
from tests.support.releases import add

DAY = 86_400
# Before anything else is imported, as on a machine whose clock stands so.
_CLOCK = """
import datetime, sys, time
off = float(sys.argv[1])
seconds, nanoseconds, there = time.time, time.time_ns, datetime.datetime
time.time = lambda: seconds() + off
time.time_ns = lambda: nanoseconds() + int(off * 1e9)
from pathlib import Path
place = Path(sys.argv[2])
"""
# MLflow's database takes dates of the real class alone.
_CALENDAR = """
class Elsewhere(there):
    @classmethod
    def now(cls, tz=None):
        return there.now(tz) + datetime.timedelta(seconds=off)
datetime.datetime = Elsewhere
assert abs(datetime.datetime.now().timestamp() - seconds() - off) < 5
"""
_HOLD = """
from registry.ledger.lease import held
from tests.faults.lease_files import TIMING, Files
with held(Files(place), "other", TIMING) as check:
    check()
    print("here", flush=True)
    while True:
        time.sleep(0.05)
        check()
"""
_STAGE = """
from registry.files.staging import staged_folder
with staged_folder(place / "out") as folder:
    (folder / "half").write_bytes(b"half")
    print("here", flush=True)
    time.sleep(60)
"""
_PROMOTE = """
from phipack.__main__ import main
sys.exit(main(["promote", sys.argv[3], "--to", "production", "--tracking-uri", sys.argv[4], "--store", sys.argv[5]]))
"""
PATIENT = Timing(beat_seconds=0.1, fresh_seconds=0.8, stale_seconds=1.5, wait_seconds=30.0)


@contextmanager
def elsewhere(program: str, off: float, place: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program with its clock off, from when it says that it is there; kill it at the end."""
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", _CLOCK + _CALENDAR + program, str(off), str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("off", [DAY, -DAY])
def test_a_lease_is_held_and_taken_over_whatever_the_clocks_say(tmp_path: Path, off: float) -> None:
    with (
        elsewhere(_HOLD, off, tmp_path),
        pytest.raises(RegistryError, match="other held"),
        held(Files(tmp_path), "me", TIMING),
    ):
        raise AssertionError
    with held(Files(tmp_path), "me", PATIENT) as check:
        check()


@pytest.mark.parametrize("off", [DAY, -DAY])
def test_what_the_living_stage_stays_and_what_the_dead_did_goes(tmp_path: Path, off: float) -> None:
    with elsewhere(_STAGE, off, tmp_path):
        with pytest.raises(KeyError), staged_folder(tmp_path / "out"):
            raise KeyError
        assert len(list(tmp_path.glob(".phipack-staging-*/half"))) == 1
    with staged_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_rollback_takes_back_what_came_last_not_what_a_clock_calls_later(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/mlflow.db", FolderStore(tmp_path / "store"))
    for release in ("1.0.0", "1.1.0"):
        add(ledger, tmp_path / "bundles", release, cells=("pixel-9",))
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    words = [str(DAY), str(tmp_path), "phi:1.0.0", ledger.uri, ledger.store.uri]
    subprocess.run(
        [sys.executable, "-c", _CLOCK + _PROMOTE, *words],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    promote(ledger, Reference.parse("phi:1.1.0"), "production", who="ann")
    assert [str(part.after and part.after.release) for move in history(ledger, "phi") for part in move.cells] == [
        "1.1.0",
        "1.0.0",
    ], json.dumps([move.title for move in history(ledger, "phi")])
    move = rollback(ledger, "phi", "production", who="ann")
    assert [str(part.after and part.after.release) for part in move.cells] == ["1.0.0"]
