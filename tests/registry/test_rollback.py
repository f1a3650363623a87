"""Rollback, and what a promotion that failed or was killed in the middle leaves to the next."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from registry.ledger.ledger import Ledger
from registry.promotion import history
from registry.store.folder import FolderStore
from targets.errors import RegistryError
from targets.progress import Event, Notice
from tests.support.databases import EVERYWHERE, POSTGRESQL, SQLITE
from tests.support.registrations import client_of
from tests.support.releases import all_at, back, standing, to
from tests.support.warm_processes import WarmProcess, python

DATABASES = EVERYWHERE


@pytest.mark.client_side
def test_rollback_steps_back_one_promotion_at_a_time(releases: Ledger) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        to(releases, f"phi:{version}")
    first = back(releases)
    assert standing(releases) == all_at("1.1.0")
    assert (first.title, first.who, first.why) == ("rollback of production to 1.1.0", "bob@ci", "too slow")
    back(releases)
    assert standing(releases) == all_at("1.0.0")
    with pytest.raises(RegistryError, match="no earlier promotion to roll back to"):
        back(releases)
    assert standing(releases) == all_at("1.0.0")
    to(releases, "phi:1.2.0")
    back(releases)
    assert standing(releases) == all_at("1.0.0")
    assert [move.kind for move in history(releases, "phi")] == [
        *("rollback", "promotion", "rollback", "rollback"),
        *("promotion", "promotion", "promotion"),
    ]


@pytest.mark.client_side
def test_rollback_of_a_channel_that_was_never_promoted_is_refused(releases: Ledger) -> None:
    with pytest.raises(RegistryError, match="phi has no channel 'staging'") as caught:
        back(releases, "staging")
    assert caught.value.fix


@pytest.mark.client_side
def test_a_cell_new_in_the_last_promotion_leaves_the_channel(releases: Ledger) -> None:
    to(releases, "phi:1.0.0@pixel-9")
    to(releases, "phi:1.1.0")
    back(releases)
    assert standing(releases) == {"pixel-9": "1.0.0"}


@pytest.mark.client_side
def test_an_alias_moved_by_another_program_stops_a_rollback(releases: Ledger) -> None:
    to(releases, "phi:1.0.0")
    to(releases, "phi:1.1.0")
    client_of(releases).set_registered_model_alias("phi.pixel-9", "production", "3")
    with pytest.raises(RegistryError, match="pixel-9: production was moved since"):
        back(releases)
    assert standing(releases) == all_at("1.1.0") | {"pixel-9": "1.2.0"}


@pytest.mark.client_side
def test_a_deleted_version_stops_a_rollback(releases: Ledger) -> None:
    to(releases, "phi:1.0.0")
    to(releases, "phi:1.1.0")
    client_of(releases).delete_model_version("phi.pixel-9", "1")
    with pytest.raises(RegistryError, match=r"pixel-9: MLflow's version 1 \(1\.0\.0\) was deleted"):
        back(releases)
    assert standing(releases) == all_at("1.1.0")


class FailsAtTheThird(Ledger):
    """A ledger whose server dies at the third alias, once."""

    def point(self, registered_model: str, channel: str, number: int | None) -> None:
        count = self.__dict__["count"] = self.__dict__.get("count", 0) + 1
        if count == 3:
            raise RegistryError("the server died", fix="try again")
        super().point(registered_model, channel, number)


def test_a_failure_in_the_middle_moves_back_what_moved(releases: Ledger) -> None:
    to(releases, "phi:1.0.0")
    with pytest.raises(RegistryError, match="the server died"):
        to(FailsAtTheThird(releases.uri, releases.store), "phi:1.1.0")
    assert standing(releases) == all_at("1.0.0")
    assert [move.state for move in history(releases, "phi")] == ["undone", "done"]
    with pytest.raises(RegistryError, match="no earlier promotion to roll back to"):
        back(releases)
    to(releases, "phi:1.1.0")
    with pytest.raises(RegistryError, match="the server died"):
        back(FailsAtTheThird(releases.uri, releases.store))
    assert standing(releases) == all_at("1.1.0")
    back(releases)
    assert standing(releases) == all_at("1.0.0")


_KILLED = """
import os, signal, sys
from pathlib import Path
from registry.ledger.ledger import Ledger
from registry.promotion import promote
from registry.store.folder import FolderStore
from targets.references import Reference

class Dies(Ledger):
    def point(self, registered_model, channel, number):
        super().point(registered_model, channel, number)
        os.kill(os.getpid(), signal.SIGKILL)

promote(Dies(sys.argv[1], FolderStore(Path(sys.argv[2]))), Reference.parse("phi:1.1.0"), "production", who="dead")
"""


@pytest.mark.parametrize("databases", [SQLITE, POSTGRESQL], indirect=True)  # a lease: test_lease.py, with less patience
def test_a_promoter_killed_in_the_middle_is_undone_by_the_next(releases: Ledger) -> None:
    to(releases, "phi:1.0.0")
    store = releases.store
    assert isinstance(store, FolderStore)
    process = WarmProcess(python, _KILLED, releases.uri, str(store.root), folder=store.root, environment=os.environ)
    assert process.wait() == -signal.SIGKILL
    process.close()
    assert sorted(standing(releases).values()) == ["1.0.0", "1.0.0", "1.1.0"]
    assert [move.state for move in history(releases, "phi")] == ["unfinished", "done"]
    said: list[Event] = []
    to(replace(releases, on_progress=said.append), "phi:1.2.0", "staging")
    assert said == [Notice("the promotion of 1.1.0 to production by dead, which broke off, was taken back")]
    assert standing(releases) == all_at("1.0.0")
    assert [move.state for move in history(releases, "phi", channel="production")] == ["undone", "done"]
