"""A registry whose store was moved, and is re-pointed."""

from __future__ import annotations

from pathlib import Path

from phipack.__main__ import main
from registry.ledger.reader import open_reader
from registry.store.folder import FolderStore
from tests.faults.channels import CELLS, prepare_releases, stands
from tests.faults.ground import Ground, Run, phipack
from tests.faults.stores import STORE

MOVED = Path("elsewhere/store")
_RELOCATE = ("registry", "relocate", "--store", str(MOVED))


def prepare_moved(ground: Ground) -> None:
    """1.0.0 and 1.1.0 are registered; their store lies elsewhere since."""
    prepare_releases(ground)
    MOVED.parent.mkdir()
    STORE.rename(MOVED)


def all_or_none(_: Ground) -> None:
    """Every version says the old store, or the new one; no channel has moved."""
    assert len(_stores()) == 1
    assert stands() == dict.fromkeys(CELLS, "1.0.0")


def relocated(ground: Ground) -> None:
    """Every version says the new store, from which it can be promoted."""
    all_or_none(ground)
    store = FolderStore(MOVED)
    assert _stores() == {store.uri}
    assert main(["promote", "phi:1.1.0", "--to", "staging", "--store", str(MOVED)]) == 0


def _stores() -> set[str]:
    return {row.store for row in open_reader(None, FolderStore(MOVED)).versions("phi")}


RELOCATE: Run = phipack(*_RELOCATE)
