"""Numbers that the Python API is given are refused where they can't be, by one of phipack's own errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from phipack.api.delivery import split
from phipack.api.keys import create_keys, open_keys
from phipack.api.registry import Registry
from targets.errors import KeysError, PhipackError
from targets.selection import Device

GIGANTIC = 10**5000  # has neither a float nor, in Python, a text
CALLS: dict[str, Callable[[Path, float], object]] = {
    "memory": lambda _, number: str(Device(ram_bytes=number)),  # type: ignore[arg-type]
    "days": lambda place, number: create_keys(place / "keys", expiry_days={"root": number}),  # type: ignore[dict-item]
    "rollout": lambda place, number: Registry(home=place).publish("phi", rollout_percent=number),
    "part": lambda place, number: split(make_bundle(place / "b"), place / "parts", number),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(
    "number", [GIGANTIC, 10**400, -1, 0, math.inf, math.nan], ids=["5000 digits", "400 digits", "-1", "0", "inf", "nan"]
)
@pytest.mark.parametrize("call", CALLS)
def test_a_number_that_can_not_be_is_refused(call: str, number: float, tmp_path: Path) -> None:
    with pytest.raises(PhipackError) as caught:
        CALLS[call](tmp_path, number)
    assert caught.value.fix
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("number", [GIGANTIC, 10**400, math.inf], ids=["5000 digits", "400 digits", "inf"])
def test_a_grace_without_end_removes_nothing(number: float, tmp_path: Path) -> None:
    registry = Registry(home=tmp_path, store=tmp_path / "store")
    registry.store.add_bundle(make_bundle(tmp_path / "bundle"))
    with pytest.raises(PhipackError, match="holds blobs"):
        registry.collect_garbage(grace_hours=number)


def test_days_that_no_calendar_has_are_refused_in_a_folder_of_keys(tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys")
    path = keys.path / "keys.json"
    path.write_text(path.read_text().replace("365", "99999999999"))
    with pytest.raises(KeysError, match=r"expiry_days\.root"):
        open_keys(keys.path)
