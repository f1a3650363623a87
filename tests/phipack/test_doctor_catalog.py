"""`phipack doctor` on a published catalog: which role's signatures expire when, and what renews them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from devtools.catalogs import Publisher
from phipack.diagnosis import catalog, machine
from phipack.diagnosis.catalog import check_catalog
from phipack.diagnosis.check import Check
from registry.catalog.published_state import published_root, read_published
from registry.catalog.signing import create_keys, renew_root
from tests.support.command_line import InProcess


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path)
    made.release("1.0.0")
    made.publish()
    return made


def looked_at(days: float, monkeypatch: pytest.MonkeyPatch, publisher: Publisher) -> dict[str, Check]:
    """Return the checks of the catalog as they are in so many days."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            assert tz is UTC
            return datetime.now(UTC) + timedelta(days=days)

    monkeypatch.setattr(catalog, "datetime", Later)
    checks = check_catalog("web", publisher.keys.path, is_named=True)
    return {one.name.removeprefix("catalog: "): one for one in checks}


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (0, ("ok", "ok", "ok", "ok")),
        (20, ("ok", "ok", "ok", "ok")),
        (25, ("ok", "ok", "warn", "warn")),
        (31, ("ok", "ok", "fail", "fail")),
        (70, ("ok", "warn", "fail", "fail")),
        (280, ("warn", "fail", "fail", "fail")),
        (366, ("fail", "fail", "fail", "fail")),
    ],
)
def test_each_role_is_warned_of_and_fails(
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    days: float,
    expected: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    found = looked_at(days, monkeypatch, publisher)
    assert list(found) == ["root", "targets", "snapshot", "timestamp"]
    assert tuple(one.status for one in found.values()) == expected
    for role, one in found.items():
        assert (one.fix is None) == (one.status == "ok")
        if one.fix is not None:
            assert one.fix.endswith("phipack publish --refresh --to web")
            assert ("phipack keys show --renew --keys" in one.fix) == (role == "root")


def test_a_short_term_of_the_keys_is_no_warning_each_day(publisher: Publisher, tmp_path: Path) -> None:
    publisher.keys = create_keys(tmp_path / "short", {}, {"timestamp": 2, "snapshot": 2, "targets": 2})
    publisher.place = publisher.store
    publisher.publish()
    ours = list(check_catalog(str(publisher.store.root), publisher.keys.path, is_named=False))
    assert {one.status for one in ours} == {"ok"}
    others = list(check_catalog(str(publisher.store.root), tmp_path / "none", is_named=False))
    assert [one.status for one in others] == ["ok", "warn", "warn", "warn"]


def test_the_newest_root_counts(publisher: Publisher) -> None:
    publisher.keys = renew_root(publisher.keys)
    assert published_root(publisher.place).signed.version == 1
    publisher.publish()
    assert published_root(publisher.place).signed.version == 2


def test_a_root_that_has_expired_is_renewed_before_anything_is_published(publisher: Publisher) -> None:
    published = read_published(publisher.place, None)
    assert published.renewal == "phipack publish --refresh"
    now = datetime.now(UTC)
    for root in (now, now - timedelta(days=1)):
        expired = replace(published, expiries={**published.expiries, "snapshot": now, "root": root})
        assert expired.is_expired
        assert expired.renewal == "phipack keys show --renew, then phipack publish --refresh"


def test_a_catalog_that_is_damaged_fails(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "web/metadata/1.root.json").unlink()
    (one,) = check_catalog(str(publisher.place.root), tmp_path / "keys", is_named=True)
    assert (one.status, one.name) == ("fail", "catalog")
    assert "1.root.json: it is missing" in one.found


def test_the_command_looks_where_it_is_pointed(
    command: InProcess, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.check_runtimes, "__defaults__", ((),))  # their imports take seconds
    assert "catalog: timestamp" in command("doctor", "--catalog", "web").stdout
    done = command("doctor", "--catalog", "wep", expect=1)
    assert "wep has no catalog" in done.stdout
    assert not (publisher.folder / "wep").exists()
    assert "nothing is published" in command("doctor").stdout
