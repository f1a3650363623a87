"""The lease: one holder, whatever dies, stalls or comes at the same moment; and promotions that it guards."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from registry.ledger.channel_moves import VersionId
from registry.ledger.lease import CLAIM, HOLDER, Lease, LeaseLostError, Timing, _take, _take_alone, _Watch, _who, held
from registry.ledger.ledger import Ledger
from registry.promotion import history
from registry.store.folder import FolderStore
from targets.errors import RegistryError
from tests.support.databases import Databases, KeptRegistry, keep_registry
from tests.support.leases import CELLS, OnAServer, lease_tags, standing, to
from tests.support.registrations import client_of, entry
from tests.support.warm_processes import WarmProcess, python

FAST = Timing(beat_seconds=0.05, asked_seconds=0.01, fresh_seconds=0.3, stale_seconds=0.8, wait_seconds=20)


class Memory:
    """Names in memory, whose every operation takes a moment on either side. It can be made to fail."""

    def __init__(self, pause: float = 0.0) -> None:
        self.names: dict[str, str] = {}
        self.broken = False
        self._pause = pause

    def read(self) -> Mapping[str, str]:
        with self._operation():
            return dict(self.names)

    def write(self, name: str, value: str) -> None:
        with self._operation():
            self.names[name] = value

    def remove(self, name: str) -> None:
        with self._operation():
            self.names.pop(name, None)

    @contextmanager
    def _operation(self) -> Iterator[None]:
        time.sleep(random.uniform(0, self._pause))
        if self.broken:
            raise RegistryError("the server is unreachable", fix="try again")
        yield
        time.sleep(random.uniform(0, self._pause))


def claims(tags: Memory) -> list[str]:
    return [name for name in tags.names if name.startswith(CLAIM)]


def test_a_lease_leaves_no_claim() -> None:
    tags = Memory()
    with held(tags, "ann", FAST) as check:
        check()
        assert len(claims(tags)) == 1
    assert claims(tags) == []
    with pytest.raises(KeyboardInterrupt), held(tags, "ann", FAST):
        raise KeyboardInterrupt
    assert claims(tags) == []


def test_of_many_at_once_one_holds_it_at_a_time() -> None:
    tags = Memory(pause=0.004)
    inside: list[str] = []
    done: list[str] = []

    def run(who: str) -> None:
        for _ in range(3):
            with held(tags, who, replace(FAST, wait_seconds=60)) as check:
                inside.append(who)
                time.sleep(random.uniform(0, 0.01))
                check()
                assert inside == [who]
                inside.remove(who)
                done.append(who)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, "abcdef"))
    assert sorted(done) == sorted("abcdef" * 3)
    assert claims(tags) == []


class Scripted(Memory):
    """Names to which something happens after so many reads."""

    def __init__(self, happens: dict[int, Callable[[Scripted], object]]) -> None:
        super().__init__()
        self._happens, self._reads = happens, 0

    def read(self) -> Mapping[str, str]:
        self._reads += 1
        self._happens.get(self._reads, lambda _: None)(self)
        return super().read()


def test_of_two_claims_at_one_moment_the_first_name_stays_and_the_other_steps_back() -> None:
    """The other one claims between this one's two looks."""

    def takes(mine: str, other: str) -> list[list[str]]:
        seen: list[list[str]] = []
        tags = Scripted(
            {
                2: lambda tags: tags.write(CLAIM + other, "{}"),
                3: lambda tags: seen.append(claims(tags)),
                4: lambda tags: tags.remove(CLAIM + other),
            }
        )
        _take(Lease(tags, "me", FAST, owner=mine))
        assert tags.names[HOLDER] == mine
        return seen

    assert takes(mine="a", other="b") == [[CLAIM + "a", CLAIM + "b"]]
    assert takes(mine="b", other="a") == [[CLAIM + "a"]]


def test_who_meets_the_holder_steps_back_whatever_their_names() -> None:
    tags = Memory()
    holder = Lease(tags, "holder", FAST, owner="z")
    _take(holder)
    beating = threading.Thread(target=holder.keep_beating, daemon=True)
    beating.start()
    late = Lease(tags, "late", FAST, owner="a")
    assert not _take_alone(late, _Watch(late.claim, FAST.stale_seconds))
    assert claims(tags) == [holder.claim]
    holder.stopped.set()
    beating.join()


def test_who_lives_keeps_it_however_long() -> None:
    tags = Memory()
    with held(tags, "ann", FAST) as check:
        with (
            pytest.raises(RegistryError, match="ann held the lease"),
            held(tags, "bob", replace(FAST, wait_seconds=2)),
        ):
            pass
        check()
        assert len(claims(tags)) == 1


def test_who_died_is_waited_for_and_then_followed() -> None:
    tags = Memory()
    _take(Lease(tags, "dead", FAST))
    started = time.monotonic()
    with held(tags, "bob", FAST) as check:
        assert time.monotonic() - started >= FAST.stale_seconds
        check()
        assert len(claims(tags)) == 1


def test_a_claim_that_was_never_a_lease_is_followed_too() -> None:
    tags = Memory()
    tags.names[CLAIM + "x"] = "not even JSON"
    with pytest.raises(RegistryError, match="another process held"), held(tags, "bob", replace(FAST, wait_seconds=0.2)):
        pass
    with held(tags, "bob", FAST):
        pass
    assert claims(tags) == []


def test_who_stood_still_finds_the_lease_gone_and_makes_no_new_claim() -> None:
    tags = Memory()
    sleeper = Lease(tags, "sleeper", FAST)
    _take(sleeper)
    sleeper.check()
    with held(tags, "bob", FAST) as check:
        with pytest.raises(LeaseLostError, match="sleeper no longer holds"):
            sleeper.check()
        # It wakes up and beats on: its claim is not made again.
        beating = threading.Thread(target=sleeper.keep_beating, daemon=True)
        beating.start()
        beating.join(10)
        assert not beating.is_alive()
        assert len(claims(tags)) == 1
        # Not even with a beat that was under way: it holds up others, and changes nothing.
        sleeper.send_beat()
        with pytest.raises(LeaseLostError):
            sleeper.check()
        check()


def test_without_beats_that_get_through_nothing_is_changed_any_more() -> None:
    tags = Memory()
    with held(tags, "ann", FAST) as check:
        check()
        tags.broken = True
        time.sleep(FAST.fresh_seconds + 0.1)
        tags.broken = False
        lease = Lease(tags, "ann", FAST, owner=tags.names[HOLDER])
        with pytest.raises(LeaseLostError):
            lease.check()  # as it is, but without a beat of late
        time.sleep(3 * FAST.beat_seconds)
        check()  # beats came through again, and nobody took it meanwhile


def test_a_release_that_fails_hides_no_result() -> None:
    tags = Memory()
    with held(tags, "ann", FAST):
        tags.broken = True


def test_a_place_that_fails_while_it_is_taken_leaves_no_claim() -> None:
    class FailsToLookAgain(Memory):
        def read(self) -> Mapping[str, str]:
            if claims(self):
                raise RegistryError("the server is unreachable", fix="try again")
            return super().read()

    tags = FailsToLookAgain()
    with pytest.raises(RegistryError, match="is unreachable"), held(tags, "ann", FAST):
        pass
    assert claims(tags) == []


def release_three(ledger: Ledger, home: Path) -> None:
    """Releases 1.0.0, 1.1.0 and 1.2.0 of two cells; 1.0.0 is in production."""
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        one = make_bundle(home / version, {"model.gguf": version.encode()})
        ledger.store.add_bundle(one)
        for cell in CELLS:
            ledger.register(entry(one, version, cell, target=cell))
    to(OnAServer(ledger.uri, ledger.store), "1.0.0")


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("three"), release_three)


@pytest.fixture
def served(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """What `release_three` makes."""
    return OnAServer(kept.again(databases, tmp_path / "home").uri, kept.store)


_DIES = """
import os, signal, sys
from pathlib import Path
from registry.promotion import promote
from registry.store.folder import FolderStore
from targets.references import Reference
from tests.support.leases import OnAServer

class Dies(OnAServer):
    def point(self, registered_model, channel, number):
        super().point(registered_model, channel, number)
        os.kill(os.getpid(), int(sys.argv[3]))

promote(Dies(sys.argv[1], FolderStore(Path(sys.argv[2]))), Reference.parse("phi:1.1.0"), "production", who="dead")
"""


@contextmanager
def dies(ledger: Ledger, with_signal: signal.Signals) -> Iterator[WarmProcess]:
    store = ledger.store
    assert isinstance(store, FolderStore)
    process = WarmProcess(
        python, _DIES, ledger.uri, str(store.root), str(int(with_signal)), folder=store.root, environment=os.environ
    )
    try:
        yield process
    finally:
        process.close()


def test_a_promoter_killed_with_a_server_is_undone_by_the_next(served: Ledger) -> None:
    with dies(served, signal.SIGKILL) as process:
        assert process.wait() == -signal.SIGKILL
    assert sorted(standing(served).values()) == ["1.0.0", "1.1.0"]
    assert len(lease_tags(served)) == 2
    to(served, "1.2.0", who="next")
    assert standing(served) == dict.fromkeys(CELLS, "1.2.0")
    assert [(move.who, move.state) for move in history(served, "phi")] == [
        ("next", "done"),
        ("dead", "undone"),
        ("ann", "done"),
    ]
    assert [part.before for part in history(served, "phi")[0].cells if part.before] == [
        VersionId.of(row) for row in served.versions("phi") if str(row.release) == "1.0.0"
    ]
    assert lease_tags(served) == ["phipack.lease.holder"]


def test_a_promoter_that_stood_still_moves_nothing_when_it_wakes(served: Ledger) -> None:
    with dies(served, signal.SIGSTOP) as process:
        while sorted(standing(served).values()) != ["1.0.0", "1.1.0"]:
            assert process.wait(0.2) is None
        to(served, "1.2.0", who="next")
        assert standing(served) == dict.fromkeys(CELLS, "1.2.0")
        process.send_signal(signal.SIGCONT)
        assert b"dead no longer holds the lease" in process.stderr.read()
        assert process.wait() == 1
    assert standing(served) == dict.fromkeys(CELLS, "1.2.0")
    assert [move.state for move in history(served, "phi")] == ["done", "undone", "done"]


def test_promoters_at_once_on_a_server_leave_a_linear_history(served: Ledger) -> None:
    barrier = threading.Barrier(3)

    def run(version: str) -> None:
        own = OnAServer(served.uri, served.store)
        own.models()
        barrier.wait()
        for turn in range(2):
            to(own, version, who=f"{version} {turn}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, ("1.0.0", "1.1.0", "1.2.0")))
    moves = list(reversed(history(served, "phi")))
    assert {move.state for move in moves} == {"done"}
    at: dict[str, VersionId | None] = dict.fromkeys(CELLS)
    for move in moves:
        for part in move.cells:
            assert part.before == at[part.cell]
            at[part.cell] = part.after
    assert standing(served) == {cell: stand.release for cell, stand in at.items() if stand}
    assert lease_tags(served) == ["phipack.lease.holder"]


def test_a_model_that_nobody_registered_gets_no_experiment(ledger: Ledger, store: FolderStore) -> None:
    with pytest.raises(RegistryError, match="no model 'phi' is registered"):
        to(OnAServer(ledger.uri, store), "1.0.0")
    assert client_of(ledger).get_experiment_by_name("phi") is None


@pytest.mark.parametrize("claim", ["[" * 100_000, '{"who": ' + "[" * 900 + "]" * 900 + "}", "1" * 5000, "\0"])
def test_a_claim_that_is_damaged_is_somebodys(claim: str) -> None:
    assert _who(claim) == "another process"
