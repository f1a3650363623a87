"""The file lock: one at a time, released by death, and no link is followed or file emptied."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from registry.files.lock import file_lock, try_lock
from registry.files.owned import NotOwnedError

_HOLDS = """
import sys, time
from pathlib import Path
from registry.files.lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(60)
"""


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []

    def run(number: int) -> None:
        for turn in range(20):
            with file_lock(tmp_path / "lock", on_wait=(lambda _: None) if turn % 2 else None):
                inside.append(number)
                assert inside == [number]
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))


def test_who_waits_is_asked_and_may_give_up(tmp_path: Path) -> None:
    waited: list[float] = []

    def give_up(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise TimeoutError

    with file_lock(tmp_path / "lock"):
        assert try_lock(tmp_path / "lock") is None
        with pytest.raises(TimeoutError), file_lock(tmp_path / "lock", on_wait=give_up):
            pass
    assert waited == sorted(waited)


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", _HOLDS, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        assert try_lock(lock) is None
        process.send_signal(signal.SIGKILL)
        with file_lock(lock):
            pass


def test_a_link_is_refused_and_what_it_leads_to_kept(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "lock").symlink_to(precious)
    for take in (lambda: file_lock(tmp_path / "lock").__enter__(), lambda: try_lock(tmp_path / "lock")):
        with pytest.raises(OSError, match="a symbolic link, not a regular file"):
            take()
    assert precious.read_bytes() == b"precious"


def test_a_file_in_the_place_of_a_lock_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"somebody's")
    with file_lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").read_bytes() == b"somebody's"


def test_what_is_no_file_of_its_own_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "second name").hardlink_to(tmp_path / "precious")
    for name, word in (("pipe", "a pipe"), ("folder", "a folder"), ("second name", "second name")):
        with pytest.raises(NotOwnedError, match=word), file_lock(tmp_path / name):
            raise AssertionError


def test_the_limit_counts_for_each_holder(tmp_path: Path) -> None:
    """Five hold it for 0.2 s, one after the other: who waits for them all sees none of them hold it for long."""
    waited: list[float] = []
    lock = tmp_path / "lock"

    def hold() -> None:
        with file_lock(lock, on_wait=lambda _: None):
            time.sleep(0.2)

    with ThreadPoolExecutor(5) as pool:
        turns = [pool.submit(hold) for _ in range(5)]
        time.sleep(0.1)
        while not all(turn.done() for turn in turns):
            with suppress(TimeoutError), file_lock(lock, on_wait=until(waited, 5)):
                pass
    assert max(waited) < 0.5


def until(waited: list[float], limit: float) -> Callable[[float], None]:
    def on_wait(seconds: float) -> None:
        waited.append(seconds)
        if seconds > limit:
            raise TimeoutError

    return on_wait


def test_a_lock_that_is_removed_afterwards_still_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []

    def run(number: int) -> None:
        for _ in range(20):
            with file_lock(tmp_path / "lock", on_wait=lambda _: None, removed=True):
                inside.append(number)
                assert inside == [number]
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert not (tmp_path / "lock").exists()


def test_a_lock_whose_file_was_removed_while_it_was_waited_for_is_taken_on_the_new_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    taken = threading.Event()

    def wait() -> None:
        with file_lock(lock):
            taken.set()

    with file_lock(lock):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not taken.wait(0.2)
        lock.unlink()
    assert taken.wait(60)
    waiter.join()
    assert lock.exists()
