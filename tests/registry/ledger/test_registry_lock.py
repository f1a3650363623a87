"""The lock of a registry in a SQLite file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from registry.ledger.registry_lock import registry_lock, registry_wait


def test_a_group_that_shares_the_file_shares_its_lock(tmp_path: Path) -> None:
    mask = os.umask(0o002)
    try:
        with registry_lock(f"sqlite:///{tmp_path}/mlflow.db", registry_wait("ann")):
            pass
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "mlflow.db.lock").stat().st_mode) == 0o664
