"""What lies between two releases of a lease, taken apart."""

from __future__ import annotations

import shutil
from pathlib import Path

from devtools.lease_events import BACK, LOOK, RELEASED, TAKEN, Event, handovers, recording_lease
from registry.store.folder import FolderStore
from tests.support.leases import OnAServer, to
from tests.support.releases import add


def test_a_move_looks_takes_and_releases(migrated_database: Path, tmp_path: Path) -> None:
    database = shutil.copy(migrated_database, tmp_path / "mlflow.db")
    ledger = OnAServer(f"sqlite:///{database}", FolderStore(tmp_path / "store"))
    add(ledger, tmp_path, "1.0.0")
    with recording_lease() as events:
        to(ledger, "1.0.0")
    assert [event.what for event in events if event.what != LOOK] == [TAKEN, RELEASED]
    assert LOOK in {event.what for event in events}
    assert handovers(events).keys() == {"moving", "releasing"}
    count = len(events)
    to(ledger, "1.0.0")
    assert len(events) == count


def test_a_handover_is_taken_apart() -> None:
    events = [
        Event("1", TAKEN, 0.0, 1.0),
        Event("1", LOOK, 2.0, 2.5),  # while it is held
        Event("1", RELEASED, 5.0, 5.5),
        Event("2", LOOK, 5.6, 5.7),  # another model's
        Event("1", LOOK, 6.0, 6.25),
        Event("1", BACK, 6.25, 7.0),
        Event("1", TAKEN, 7.5, 8.5),
        Event("1", RELEASED, 10.5, 11.5),
    ]
    parts = handovers(events)
    assert parts == {"moving": 3.0, "releasing": 0.75, "idle": 0.5, "looking": 1.5, "taking": 1.0}


def test_who_looks_as_it_is_released_leaves_no_idle_time() -> None:
    events = [
        Event("1", TAKEN, 0.0, 1.0),
        Event("1", RELEASED, 2.0, 3.0),
        Event("1", LOOK, 2.5, 3.5),
        Event("1", TAKEN, 3.5, 4.0),
    ]
    assert handovers(events)["idle"] == 0.0
    assert handovers([]) == {}
