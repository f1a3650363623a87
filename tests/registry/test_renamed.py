"""MLflow lets people rename what phipack has made: no channel then moves to another thing than was meant."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.fetch import fetch
from registry.ledger.channel_moves import VersionId
from registry.ledger.ledger import Ledger
from registry.ledger.reader import open_reader, resolve_in
from registry.ledger.registration import Registration
from registry.promotion import history, promote, retire, rollback
from targets.errors import RegistryError
from targets.references import Reference, Version
from tests.support.databases import Databases, KeptRegistry, keep_registry
from tests.support.registrations import client_of
from tests.support.releases import add

CELL = ("iphone-15",)
FIRST = Reference.parse("phi:1.0.0")


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    """Releases 1.0.0 and 1.1.0 of one cell."""

    def make(ledger: Ledger, home: Path) -> None:
        for version in ("1.0.0", "1.1.0"):
            add(ledger, home, version, CELL)

    return keep_registry(databases, tmp_path_factory.mktemp("two"), make)


@pytest.fixture
def two(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """The same, for one test."""
    return kept.again(databases, tmp_path / "home")


@pytest.fixture
def renamed(two: Ledger) -> Ledger:
    """The same; then somebody has renamed the cell's registered model on MLflow's page."""
    client_of(two).rename_registered_model("phi.iphone-15", "x")
    return two


def add_under_the_old_name(ledger: Ledger, folder: Path) -> str:
    """Add what phipack once registered after the renaming: failing gates, number 1. Return its digest."""
    bundle = make_bundle(folder / "rc", {"model.gguf": b"rc"})
    ledger.store.add_bundle(bundle)
    evidence = make_evidence(bundle, kl_mean=0.9)
    late = Registration("phi", Version.parse("2.0.0-rc.1"), "iphone-15", bundle.manifest, evidence)
    client = client_of(ledger)
    client.create_registered_model("phi.iphone-15", tags={"phipack.model": "phi", "phipack.cell": "iphone-15"})
    tags = late.version_tags("0" * 32, ledger.store.uri)
    client.create_model_version("phi.iphone-15", ledger.store.bundle_uri(bundle.digest), tags=tags)
    return bundle.digest


def alias_of(ledger: Ledger, name: str, channel: str) -> int | None:
    number = client_of(ledger).get_registered_model(name).aliases.get(channel)
    return None if number is None else int(number)


def test_a_promotion_moves_the_version_that_was_read(renamed: Ledger, tmp_path: Path) -> None:
    move = promote(renamed, FIRST, "beta", who="ann")
    assert alias_of(renamed, "x", "beta") == 1
    (part,) = history(renamed, "phi")[0].cells
    assert part.after is not None
    assert (part.after.registered_model, part.after.number) == ("x", 1)
    rows = {str(row.release): row for row in renamed.versions("phi")}
    assert part.after.digest == rows["1.0.0"].digest
    for reader in (renamed, open_reader(renamed.uri, renamed.store)):
        (found,) = resolve_in(reader, Reference.parse("phi:beta@iphone-15"))
        assert (found.digest, found.registered_model) == (rows["1.0.0"].digest, "x")
    promote(renamed, Reference.parse("phi:1.1.0"), "beta", who="ann")
    rollback(renamed, "phi", "beta", who="ann")
    assert alias_of(renamed, "x", "beta") == 1
    retire(renamed, Reference.parse("phi@iphone-15"), "beta", who="ann")
    assert alias_of(renamed, "x", "beta") is None
    assert move.cells == (part,)


def test_no_second_list_of_numbers_begins(renamed: Ledger, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"'x': it was renamed from 'phi\.iphone-15'") as caught:
        add(renamed, tmp_path / "late", "2.0.0-rc.1", CELL, kl_mean=0.9)
    assert "rename_registered_model('x', 'phi.iphone-15')" in caught.value.fix
    assert [row.name for row in client_of(renamed).search_registered_models()] == ["x"]
    client_of(renamed).rename_registered_model("x", "phi.iphone-15")
    add(renamed, tmp_path / "late", "2.0.0-rc.1", CELL, kl_mean=0.9)
    assert [row.number for row in renamed.versions("phi")] == [1, 2, 3]


def test_a_cell_in_two_registered_models_is_refused_by_all(renamed: Ledger, tmp_path: Path) -> None:
    """As an older phipack left it: a promotion of 1.0.0 set the alias at 2.0.0-rc.1, whose gates fail."""
    promote(renamed, FIRST, "beta", who="ann")
    stranger = add_under_the_old_name(renamed, tmp_path)
    for reference in (FIRST, Reference.parse("phi:1.1.0@iphone-15")):
        with pytest.raises(RegistryError, match=r"2 of MLflow's registered models: phi\.iphone-15 and x"):
            promote(renamed, reference, "production", who="ann")
    for move in (
        lambda: rollback(renamed, "phi", "beta", who="ann", empty=True),
        lambda: retire(renamed, Reference.parse("phi@iphone-15"), "beta", who="ann"),
    ):
        with pytest.raises(RegistryError, match="2 of MLflow's registered models"):
            move()
    assert alias_of(renamed, "phi.iphone-15", "beta") is None
    client_of(renamed).set_registered_model_alias("phi.iphone-15", "beta", "1")
    for reader in (renamed, open_reader(renamed.uri, renamed.store)):
        assert stranger in {row.digest for row in reader.versions("phi")}  # gc keeps the bytes of both
        resolver = functools.partial(resolve_in, reader)
        with pytest.raises(RegistryError, match="2 of MLflow's registered models"):
            fetch("phi:beta@iphone-15", tmp_path / "out", resolver=resolver)
        assert resolve_in(reader, FIRST)[0].registered_model == "x"
    assert not (tmp_path / "out").exists()


class RenamedMeanwhile(Ledger):
    """Somebody renames the registered model after the rows were read; the old name gets another's version."""

    ours: bool
    digest: str

    def point(self, registered_model: str, channel: str, number: int | None) -> None:
        if registered_model == "phi.iphone-15" and not self.__dict__.get("happened"):
            self.__dict__["happened"] = True
            client = client_of(self)
            client.rename_registered_model("phi.iphone-15", "x")
            if self.ours:
                add_under_the_old_name(self, Path(self.store.uri.removeprefix("file://")).parent)
            else:
                client.create_registered_model("phi.iphone-15")
                client.create_model_version("phi.iphone-15", "phipack-file:///theirs")
        super().point(registered_model, channel, number)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("before", [None, "1.1.0"])
def test_an_alias_is_held_to_the_digest_after_it_was_set(two: Ledger, ours: bool, before: str | None) -> None:
    if before:
        promote(two, Reference.parse(f"phi:{before}"), "beta", who="ann")
    unlucky = RenamedMeanwhile(two.uri, two.store)
    unlucky.__dict__["ours"] = ours
    with pytest.raises(RegistryError, match=r"after the move, beta points at .*, not at 1\.0\.0 \(sha256:"):
        promote(unlucky, FIRST, "beta", who="ann")
    assert alias_of(two, "phi.iphone-15", "beta") is None
    assert alias_of(two, "x", "beta") == (2 if before else None)
    assert history(two, "phi")[0].state == "undone"


def test_a_renamed_experiment_is_not_taken_for_an_empty_one(two: Ledger, tmp_path: Path) -> None:
    """It holds history, plans, leases and lists of promoters: a new one would have none of them."""
    promote(two, FIRST, "beta", who="ann")
    client = client_of(two)
    experiment = client.get_experiment_by_name("phi").experiment_id
    client.rename_experiment(experiment, "old phi")

    def release() -> Any:
        return add(two, tmp_path / "late", "1.2.0", CELL)

    for ask in (
        release,
        lambda: two.plan_release("phi", Version(1, 2, 0), CELL),
        lambda: promote(two, Reference.parse("phi:1.1.0"), "beta", who="eve"),
        lambda: rollback(two, "phi", "beta", who="eve"),
        lambda: history(two, "phi"),
        lambda: two.noted("phi", Version(1, 0, 0)),
    ):
        with pytest.raises(RegistryError, match="experiment 'old phi' holds the runs of model phi") as caught:
            ask()
    assert caught.value.fix == f"mlflow experiments rename -x {experiment} -n phi"
    assert client.get_experiment_by_name("phi") is None
    assert alias_of(two, "phi.iphone-15", "beta") == 1
    client.rename_experiment(experiment, "phi")
    client.delete_experiment(experiment)
    with pytest.raises(RegistryError, match="is deleted"):
        history(two, "phi")


def test_a_version_to_go_back_to_that_is_gone_leaves_a_way_on(two: Ledger) -> None:
    """A dead promoter's move can't be undone: its version is deleted. Removing the record, as is said, lets go on."""
    promote(two, FIRST, "beta", who="ann")
    rows = {str(row.release): row for row in two.versions("phi")}
    move = history(two, "phi")[0]
    part = move.cells[0]
    dead = type(part)(part.cell, part.after, VersionId.of(rows["1.1.0"]), part.evidence)
    begun = two.begin_move(type(move)("", "promotion", "phi", "beta", "ann", "", move.when, (dead,)), after=move.when)
    two.point("phi.iphone-15", "beta", 2)
    client_of(two).delete_model_version("phi.iphone-15", "1")
    with pytest.raises(RegistryError, match=r"MLflow's version 1 \(1\.0\.0\).* was deleted") as caught:
        promote(two, Reference.parse("phi:1.1.0"), "staging", who="ann")
    assert f"mlflow runs delete --run-id {begun.id}" in caught.value.fix
    client_of(two).delete_run(begun.id)
    promote(two, Reference.parse("phi:1.1.0"), "staging", who="ann")
    assert alias_of(two, "phi.iphone-15", "staging") == 2


def test_records_of_older_versions_are_read(two: Ledger, kept: KeptRegistry) -> None:
    """They have no names of registered models."""
    promote(two, FIRST, "beta", who="ann")
    move = history(two, "phi")[0]
    tag = "phipack.cell.iphone-15"
    client = client_of(two)
    raw = client.get_run(move.id).data.tags[tag]
    assert '"registered_model": "phi.iphone-15"' in raw
    client.set_tag(move.id, tag, raw.replace(', "registered_model": "phi.iphone-15"', ""))
    assert history(two, "phi") == [move]
    promote(two, Reference.parse("phi:1.1.0"), "beta", who="ann")
    rollback(two, "phi", "beta", who="ann")
    assert alias_of(two, "phi.iphone-15", "beta") == 1


def test_a_name_that_was_never_phipacks_is_not_moved(two: Ledger) -> None:
    """A registered model without phipack's tags may have any aliases."""
    client = client_of(two)
    client.rename_registered_model("phi.iphone-15", "x")
    client.create_registered_model("phi.iphone-15")
    client.create_model_version("phi.iphone-15", "phipack-file:///theirs")
    client.set_registered_model_alias("phi.iphone-15", "beta", "1")
    promote(two, FIRST, "beta", who="ann")
    rollback(two, "phi", "beta", who="ann", empty=True)
    assert alias_of(two, "phi.iphone-15", "beta") == 1
    assert alias_of(two, "x", "beta") is None


def test_a_copy_in_another_registered_model_is_not_the_cell(two: Ledger) -> None:
    """MLflow's "Promote model" copies a version with its tags; number 1 of the copies is not the cell's number 1."""
    client = client_of(two)
    copied = client.copy_model_version("models:/phi.iphone-15/2", "theirs")
    assert copied.tags["phipack.release"] == "1.1.0"
    readers = (two, open_reader(two.uri, two.store))
    for reader in readers:
        assert {(row.registered_model, row.number) for row in reader.versions("phi")} == {
            ("phi.iphone-15", 1),
            ("phi.iphone-15", 2),
        }
    promote(two, Reference.parse("phi:1.1.0"), "beta", who="ann")
    assert alias_of(two, "phi.iphone-15", "beta") == 2
    assert alias_of(two, "theirs", "beta") is None
    client.delete_model_version("phi.iphone-15", "2")
    for reader in readers:  # what the copy refers to is not garbage
        assert copied.tags["phipack.digest"] in {row.digest for row in reader.versions(copies=True)}
        assert [str(row.release) for row in reader.versions("phi")] == ["1.0.0"]
