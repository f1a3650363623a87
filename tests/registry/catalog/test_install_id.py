"""The name of an installation: made once, kept, and refused where the file holds something else."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from registry.catalog.client import install_id
from targets.errors import FetchError


def test_a_name_is_made_once(tmp_path: Path) -> None:
    name = install_id(tmp_path)
    assert str(uuid.UUID(name)) == name
    assert install_id(tmp_path) == name


def test_a_name_of_the_users_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "install-id").write_text("kiosk 7\n")
    assert install_id(tmp_path) == "kiosk 7"


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"", b"\n", b"a\0b", b"a\nb", "é".encode(), b"a" * 201, b"a" * 10**6])
def test_what_is_no_name_is_refused_with_a_way_out(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "install-id").write_bytes(raw)
    with pytest.raises(FetchError, match="does not hold a name") as refused:
        install_id(tmp_path)
    assert f"rm {tmp_path}/install-id" in refused.value.fix
