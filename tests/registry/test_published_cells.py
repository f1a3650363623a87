"""What leaves a published channel, and what a rollout leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from devtools.catalogs import Phone, Publisher
from devtools.servers import RangeHandler, serving
from registry.ledger.channel_moves import CellMove, Move, MoveKind, MoveState, VersionId
from registry.publication import Order, Publication, publish
from registry.store.folder import FolderStore
from registry.store.protocol import Blob
from targets.devices import load_targets
from targets.errors import FetchError, PublicationError, RegistryError


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has keys, and nothing published."""
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def phone(tmp_path: Path, publisher: Publisher) -> Iterator[Phone]:
    """Trusts the publisher's first root."""
    publisher.place.root.mkdir(parents=True)
    with serving(publisher.place.root, kind=RangeHandler) as url:
        yield Phone(tmp_path / "phone", url, publisher.root)


def a_move(kind: MoveKind, cell: str, state: MoveState) -> Move:
    before, when = VersionId("1.0.0", 1, "sha256:" + "a" * 64, "phi"), datetime(2026, 11, 23, tzinfo=UTC)
    return Move("id", kind, "phi", "production", "ann@ci", "", when, (CellMove(cell, before, None),), state)


def test_a_cell_that_vanished_from_the_channel_is_missed(publisher: Publisher, phone: Phone) -> None:
    """Deleting a version in MLflow deletes its aliases, too."""
    publisher.release("1.0.0")
    publisher.publish()
    publisher.registry.rows = [row for row in publisher.registry.rows if row.cell != "iphone-15"]
    before = (publisher.place.root / "metadata/timestamp.json").read_bytes()
    with pytest.raises(PublicationError, match=r"iphone-15 \(1\.0\.0\); no move has taken them out") as caught:
        publisher.publish()
    assert "--drop iphone-15" in caught.value.fix
    assert (publisher.place.root / "metadata/timestamp.json").read_bytes() == before
    assert phone.fetch()[1] == "1.0.0"
    publication = publisher.publish(order=Order("phi", "production", drop=frozenset({"iphone-15"})))
    assert publication.dropped == ("iphone-15",)
    assert [cell.name for cell in publication.cells] == ["pixel-9"]
    with pytest.raises(FetchError, match="nothing is published for"):
        phone.fetch()
    assert publisher.publish().dropped == ()


def test_only_what_vanished_can_be_dropped(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    for cell in ("iphone-15", "iphone-51"):
        with pytest.raises(PublicationError, match=f"{cell} can't be dropped") as caught:
            publisher.publish(order=Order("phi", "production", drop=frozenset({cell})))
        assert f"phipack retire phi@{cell} --from production" in caught.value.fix


def test_a_cell_that_was_retired_leaves_the_catalog(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.registry.rows = [row for row in publisher.registry.rows if row.cell != "iphone-15"]
    order = Order("phi", "production")

    def publish_again(*out: str) -> tuple[str, ...]:
        moves = [a_move("retirement", cell, "done") for cell in out]
        return publish(
            publisher.registry, order, publisher.place, publisher.keys, targets=load_targets(), moves=lambda: moves
        ).dropped

    with pytest.raises(PublicationError, match="iphone-15"):
        publish_again("pixel-9")
    assert publish_again("iphone-15") == ("iphone-15",)
    publisher.registry.rows.clear()
    with pytest.raises(PublicationError, match=r"pixel-9 \(1\.0\.0\)"):
        publish_again()
    assert publish_again("pixel-9") == ("pixel-9",)
    with pytest.raises(FetchError, match="channel production has no cells any more"):
        phone.fetch("phi")
    assert phone.fetch("phi:1.0.0@pixel-9")[1] == "1.0.0"  # what was published stays
    with pytest.raises(RegistryError, match="no model 'phi'"):
        publish_again()


def test_a_channel_in_the_middle_of_a_move_is_not_published(publisher: Publisher, phone: Phone) -> None:
    """Its process may have died: then the next move takes back what phones would have got."""
    publisher.release("1.0.0")
    publisher.publish()
    publisher.release("1.1.0", cells={"iphone-15": "iphone-15"})  # and pixel-9 would be next
    moves = [a_move("promotion", "iphone-15", "unfinished")]
    order = Order("phi", "production")

    def publish_again() -> Publication:
        return publish(
            publisher.registry, order, publisher.place, publisher.keys, targets=load_targets(), moves=lambda: moves
        )

    with pytest.raises(PublicationError, match="by ann@ci is unfinished; nothing was published") as caught:
        publish_again()
    assert "phipack promote phi:VERSION --to production" in caught.value.fix
    assert phone.fetch()[1] == "1.0.0"
    moves = [replace(move, channel="staging") for move in moves]
    assert publish_again().cells
    moves = [replace(move, channel="production") for move in moves]
    moves.append(replace(moves[0], state="done"))  # MLflow's client repeated the request that began it
    assert publish_again().cells


def test_a_channel_that_moves_while_its_bundles_are_copied_is_not_published(
    publisher: Publisher, phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.release("1.1.0")
    real = FolderStore.put

    def rolled_back(self: FolderStore, source: BinaryIO, blob: Blob, *, what: str) -> None:
        publisher.point_back("1.0.0")
        real(self, source, blob, what=what)

    monkeypatch.setattr(FolderStore, "put", rolled_back)
    with pytest.raises(PublicationError, match="was moved meanwhile; nothing was published"):
        publisher.publish()
    assert phone.fetch()[1] == "1.0.0"
    assert stages_of(publisher.publish())["iphone-15"] == [("1.0.0", 100)]


def stages_of(publication: Publication) -> dict[str, list[tuple[str, float]]]:
    return {cell.name: [(one.release, one.basis_points / 100) for one in cell.stages] for cell in publication.cells}


def test_a_rollout_leaves_cells_alone_that_the_release_does_not_have(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.release("1.1.0", cells={"pixel-9": "pixel-9"})
    publication = publisher.publish(10)
    assert stages_of(publication) == {"iphone-15": [("1.0.0", 100)], "pixel-9": [("1.1.0", 10), ("1.0.0", 100)]}
    assert {cell.name: cell.changed for cell in publication.cells} == {"iphone-15": False, "pixel-9": True}
    assert stages_of(publisher.publish(30))["pixel-9"][0] == ("1.1.0", 30)
    with pytest.raises(PublicationError, match=r"1\.1\.0 is out for 30 % already; 20 % would take it back") as caught:
        publisher.publish(20)
    assert "--rollout 30 or more" in caught.value.fix
    publisher.release(
        "1.1.1", cells={"iphone-15": "iphone-15"}
    )  # a hotfix of the other one, while that is out for 30 %
    assert stages_of(publisher.publish(20)) == {
        "iphone-15": [("1.1.1", 20), ("1.0.0", 100)],
        "pixel-9": [("1.1.0", 30), ("1.0.0", 100)],
    }
    assert stages_of(publisher.publish()) == {"iphone-15": [("1.1.1", 100)], "pixel-9": [("1.1.0", 100)]}
    with pytest.raises(PublicationError, match=r"1\.1\.0 is out for 100 % already") as caught:
        publisher.publish(10)
    assert "--rollout" not in caught.value.fix  # which would ship to everybody what somebody wants to ship to few


def test_a_rollback_of_one_cell_is_published_with_another_ones_rollout(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.release("1.1.0")
    publisher.publish(10)
    publisher.point_back("1.0.0")
    publisher.release("1.1.1", cells={"pixel-9": "pixel-9"})
    assert stages_of(publisher.publish(5)) == {
        "iphone-15": [("1.0.0", 100)],
        "pixel-9": [("1.1.1", 5), ("1.1.0", 10), ("1.0.0", 100)],
    }
