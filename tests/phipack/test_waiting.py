"""Who waits for another's lock says so, and for whom, whichever the command."""

from __future__ import annotations

import fcntl
import selectors
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phipack.api.keys import create_keys, renew_root, rotate_keys
from phipack.api.registry import Registry
from registry.catalog import signing
from registry.files import lock_wait
from registry.ledger.ledger import open_ledger
from registry.store import folder as folder_store
from registry.store.folder import FolderStore
from targets.errors import KeysError, PhipackError, StoreUnreachableError
from targets.progress import Notice
from tests.support.releases import add
from tests.support.warm_processes import WarmProcess, phipack

COMMANDS = (
    ("release",),
    ("promote", "phi:1.0.0", "--to", "production"),
    ("rollback", "phi"),
    ("show", "phi:1.0.0"),
    ("history", "phi"),
    ("diff", "phi:1.0.0", "phi:1.1.0"),
)


@pytest.fixture
def held(project: Path) -> Iterator[Path]:
    """A project's registry with two releases, whose lock another process has."""
    home = project / ".phipack"
    ledger = open_ledger(f"sqlite:///{home}/mlflow.db", FolderStore(home / "store"))
    for release in ("1.0.0", "1.1.0"):
        add(ledger, home / "bundles", release)
    lock = home / "mlflow.db.lock"
    with lock.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield lock


def test_each_says_whom_it_waits_for(project: Path, held: Path) -> None:
    """All at once, as each waits some seconds before it says so."""
    processes = {arguments: WarmProcess(phipack, *arguments, folder=project) for arguments in COMMANDS}
    try:
        for arguments, process in processes.items():
            said = said_within(process, "waiting for", seconds=60)
            assert f"waiting for another phipack, who holds {held}" in said, arguments
            process.send_signal(signal.SIGINT)
        assert [process.wait() for process in processes.values()] == [130] * len(COMMANDS)
    finally:
        for process in processes.values():
            process.close()


def test_a_store_and_a_folder_of_keys_are_waited_for_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_wait, "NOTICE_SECONDS", 0.01)
    monkeypatch.setattr(folder_store, "_LOCK_SECONDS", 0.1)
    monkeypatch.setattr(signing, "_LOCK_SECONDS", 0.1)
    store = Registry(store=tmp_path / "store", home=tmp_path, on_progress=(said := []).append).store
    store.root.mkdir()
    keys = create_keys(tmp_path / "keys")
    changes: list[tuple[Path, Callable[[], object], type[PhipackError]]] = [
        (store.root / "documents.lock", lambda: store.keep(f"sha256:{'0' * 64}"), StoreUnreachableError),
        (keys.path / ".lock", lambda: renew_root(keys, on_progress=said.append), KeysError),
        (keys.path / ".lock", lambda: rotate_keys("timestamp", keys, on_progress=said.append), KeysError),
    ]
    for lock, change, kind in changes:
        said.clear()
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with pytest.raises(kind, match=f"another phipack held {lock}"):
                change()
        assert [one.text for one in said if isinstance(one, Notice)] == [
            f"waiting for another phipack, who holds {lock}"
        ]


def said_within(process: WarmProcess, word: str, *, seconds: float) -> str:
    """Return its standard error up to the line with the word, or all of it if the word does not come in time."""
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while word not in said.decode() or not said.endswith(b"\n"):
            if not selector.select(seconds) or not (piece := process.stderr.read(4096)):
                break
            said += piece
    return said.decode()
