"""Rows that are asked for by name or number are those that a search for all finds, and those that MLflow has."""

from __future__ import annotations

from pathlib import Path

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.ledger import version_search
from registry.ledger.ledger import Ledger
from registry.ledger.registration import Registration
from registry.ledger.versions import CellVersion
from targets.references import Version
from tests.support.databases import EVERYWHERE, Databases, KeptRegistry, keep_registry
from tests.support.registrations import client_of

DATABASES = EVERYWHERE
CELLS = ("galaxy-s24", "iphone-15", "pixel-9")
# By channel, the numbers that it points at in MLflow: at the last release, at two others, at one of one cell.
CHANNELS = {
    "production": {"galaxy-s24": 3, "iphone-15": 3, "pixel-9": 2},
    "staging": {"galaxy-s24": 1, "iphone-15": 2},
    "beta": {"pixel-9": 1},
}


def fill(ledger: Ledger, home: Path) -> None:
    """Register three releases; the first does not have the last cell, whose numbers are one lower."""
    for release in ("1.0.0", "1.1.0", "1.2.0"):
        bundle = make_bundle(home / release, {"model.gguf": release.encode()})
        ledger.store.add_bundle(bundle)
        for cell in CELLS[: 2 if release == "1.0.0" else 3]:
            evidence = make_evidence(bundle, target=cell)
            ledger.register(Registration("phi", Version.parse(release), cell, bundle.manifest, evidence))
    for channel, numbers in CHANNELS.items():
        for cell, number in numbers.items():
            ledger.point(f"phi.{cell}", channel, number)


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("filled"), fill)


@pytest.fixture
def filled(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """What `fill` makes."""
    return kept.again(databases, tmp_path / "home")


def numbers_of(rows: list[CellVersion]) -> dict[str, int]:
    return {row.cell: row.number for row in rows}


def test_a_channel_has_the_rows_that_mlflow_points_at(filled: Ledger) -> None:
    everything = filled.versions("phi")
    for channel, numbers in CHANNELS.items():
        rows = filled.in_channel("phi", channel)
        assert numbers_of(rows) == numbers
        assert rows == [row for row in everything if channel in row.channels]
        for cell in CELLS:
            assert filled.in_channel("phi", channel, cell) == [row for row in rows if row.cell == cell]
    assert filled.in_channel("phi", "gamma") == filled.in_channel("other", "production") == []


def test_many_rows_are_asked_for_in_parts(filled: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = filled.versions("phi")
    assert len(everything) == 8
    for rows, names in ((1, 30), (600, 1), (5, 2)):
        monkeypatch.setattr(version_search, "_ROWS", rows)
        monkeypatch.setattr(version_search, "_NAMES", names)
        assert filled.versions("phi") == filled.versions() == everything


def test_a_name_that_no_filter_can_say_is_found(filled: Ledger) -> None:
    client_of(filled).rename_registered_model("phi.pixel-9", "o'hara")
    assert numbers_of(filled.in_channel("phi", "production")) == CHANNELS["production"]
    renamed = [row for row in filled.versions("phi") if row.cell == "pixel-9"]
    assert [(row.registered_model, row.number) for row in renamed] == [("o'hara", 1), ("o'hara", 2)]
    assert len(filled.versions("phi")) == 8


def test_copies_of_other_people_are_left_out_unless_they_are_wanted(filled: Ledger) -> None:
    client = client_of(filled)
    copied = client.copy_model_version("models:/phi.pixel-9/1", "their-own")
    client.set_registered_model_alias("their-own", "production", copied.version)
    assert numbers_of(filled.in_channel("phi", "production")) == CHANNELS["production"]
    assert len(filled.versions("phi")) == 8
    assert "their-own" in {row.registered_model for row in filled.versions("phi", copies=True)}


@pytest.mark.parametrize("model", ["it's", "a' OR 'b", "phi\\", 'phi"'])
def test_a_text_that_no_filter_can_have_is_no_model(filled: Ledger, model: str) -> None:
    assert filled.versions(model) == []
    assert filled.versions(model, release=Version.parse("1.0.0"), copies=True) == []
    assert filled.in_channel(model, "production") == []
    assert filled.in_channel("phi", "production", model) == []
