"""A release is one thing: made from the same inputs in every cell, planned once, unchanged after a promotion."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle, seal
from registry.bundle.manifest import AdapterEntry, merged_digest
from registry.ledger.channel_moves import RELEASE_KIND
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.mlflow_client import Mlflow
from registry.ledger.reader import open_reader
from registry.ledger.registration import Registration
from registry.promotion import promote
from registry.store.folder import FolderStore
from targets.errors import RegistryError
from targets.progress import Event, Notice
from targets.references import Reference, Version
from tests.support.databases import SERVER, Databases, KeptRegistry, keep_registry
from tests.support.registrations import client_of, entry, releases_of, runs_of

VERSION = Version(1, 0, 0)
OTHER_CHECKPOINT = "sha256:" + "b" * 64


def made_from(folder: Path, *, checkpoint: str | None = None, tool: str = "0.1.0") -> Bundle:
    """A bundle of another checkpoint, or by another version of a tool."""
    bundle = make_bundle(folder, {"model.gguf": folder.name.encode()})
    manifest = bundle.manifest.model_copy(
        update={"checkpoint": checkpoint or bundle.manifest.checkpoint, "tools": {"phipack": tool}}
    )
    return seal(bundle.path, manifest)


def registration(bundle: Bundle, cell: str, *, text: str | None = None, **settings: str) -> Registration:
    evidence = make_evidence(bundle, target=cell)
    if text:
        evidence = evidence.model_copy(update={"text": text})
    wanted = {f"evaluation.{name}": value for name, value in settings.items()}
    return Registration("phi", VERSION, cell, bundle.manifest, evidence, wanted)


def begin(ledger: Ledger, home: Path) -> None:
    """Release 1.0.0, which plans two cells and has the first."""
    bundle = make_bundle(home / "bundle")
    ledger.store.add_bundle(bundle)
    ledger.plan_release("phi", VERSION, ["iphone-15", "pixel-9"])
    ledger.register(registration(bundle, "iphone-15", tokens="512"))


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("begun"), begin)


@pytest.fixture
def begun(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """What `begin` makes."""
    return kept.again(databases, tmp_path / "home")


def test_the_first_cell_is_kept_with_its_inputs(begun: Ledger, bundle: Bundle) -> None:
    wanted = {
        "checkpoint": bundle.manifest.checkpoint,
        "tool.phipack": "0.1.0",
        "evaluation.tokens": "512",
        "tokens of 4 windows of 1024 tokens": "sha256:" + "d" * 64,
    }
    for reader in (begun, open_reader(begun.uri, begun.store)):
        assert [row.inputs for row in reader.versions("phi")] == [wanted]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"checkpoint": OTHER_CHECKPOINT}, ("checkpoint sha256:cccc", f"cell pixel-9 has {OTHER_CHECKPOINT}")),
        ({"tool": "0.2.0"}, ("tool phipack 0.1.0", "cell pixel-9 has 0.2.0")),
        ({"tokens": "256"}, ("evaluation.tokens 512", "cell pixel-9 has 256")),
        (
            {"text": "sha256:" + "a" * 64 + ", 4 windows of 1024 tokens"},
            ("tokens of 4 windows of 1024 tokens sha256:dddd", "cell pixel-9 has sha256:aaaa"),
        ),
    ],
)
def test_a_cell_that_is_made_from_something_else_is_refused(
    begun: Ledger, kept: KeptRegistry, tmp_path: Path, changed: dict[str, str], named: tuple[str, str]
) -> None:
    of_bundle = {name: value for name, value in changed.items() if name in ("checkpoint", "tool")}
    other = made_from(tmp_path / "other", **of_bundle)
    kept.store.add_bundle(other)
    rest = {"tokens": "512"} | {name: value for name, value in changed.items() if name not in of_bundle}
    with pytest.raises(RegistryError, match="is one release: its cell iphone-15 has") as caught:
        begun.register(registration(other, "pixel-9", **rest))
    assert all(text in caught.value.problem for text in named)
    assert "raise the version" in caught.value.fix
    assert [row.cell for row in begun.versions("phi")] == ["iphone-15"]
    assert len(runs_of(begun)) == 1
    begun.register(replace(registration(other, "pixel-9", **rest), version=Version(1, 0, 1)))


def test_windows_of_another_length_are_no_contradiction(begun: Ledger, bundle: Bundle) -> None:
    """A cell with a short context reads the same text in shorter windows."""
    begun.register(
        registration(bundle, "pixel-9", text="sha256:" + "a" * 64 + ", 8 windows of 512 tokens", tokens="512")
    )


def test_a_release_is_held_to_its_first_cell_before_anything_is_built(begun: Ledger) -> None:
    with pytest.raises(RegistryError, match=rf"has checkpoint sha256:c+, and here it is {OTHER_CHECKPOINT}"):
        begun.plan_release("phi", VERSION, ["iphone-15"], inputs={"checkpoint": OTHER_CHECKPOINT})
    assert begun.noted("phi", VERSION).cells == ("iphone-15", "pixel-9")
    begun.plan_release("phi", VERSION, ["iphone-15"], inputs={"checkpoint": "sha256:" + "c" * 64})
    assert begun.noted("phi", VERSION).cells == ("iphone-15",)  # it was not promoted yet


def test_what_older_versions_registered_is_held_to_its_checkpoint(
    begun: Ledger, kept: KeptRegistry, tmp_path: Path
) -> None:
    client_of(begun).delete_model_version_tag("phi.iphone-15", "1", "phipack.inputs")
    assert begun.versions("phi")[0].inputs == {"checkpoint": "sha256:" + "c" * 64}
    other = made_from(tmp_path / "other", checkpoint=OTHER_CHECKPOINT)
    kept.store.add_bundle(other)
    with pytest.raises(RegistryError, match="is one release"):
        begun.register(registration(other, "pixel-9"))


def test_another_adapter_is_named(begun: Ledger, kept: KeptRegistry, tmp_path: Path) -> None:
    base, adapters = "sha256:" + "1" * 64, ["sha256:" + digit * 64 for digit in "23"]
    for cell, adapter in zip(("iphone-15", "pixel-9"), adapters, strict=True):
        bundle = make_bundle(tmp_path / cell, {"model.gguf": cell.encode()})
        parts = {"merged_from": AdapterEntry(base=base, adapter=adapter), "checkpoint": merged_digest(base, adapter)}
        sealed = seal(bundle.path, bundle.manifest.model_copy(update=parts))
        kept.store.add_bundle(sealed)
        wanted = replace(registration(sealed, cell), version=Version(2, 0, 0))
        if cell == "iphone-15":
            assert begun.register(wanted).inputs["base"] == base
        else:
            with pytest.raises(RegistryError, match=f"has adapter {adapters[0]}, and here .* has {adapters[1]}"):
                begun.register(wanted)


@pytest.mark.parametrize("raw", ["[]", "{", '{"checkpoint": 1}', "[" * 100_000])
def test_inputs_changed_by_hand_are_named(begun: Ledger, raw: str) -> None:
    client_of(begun).set_model_version_tag("phi.iphone-15", "1", "phipack.inputs", raw[:5000])
    with pytest.raises(RegistryError, match=r"version 1 of phi\.iphone-15: tag phipack\.inputs is missing or wrong"):
        begun.versions("phi")


@pytest.mark.parametrize("databases", [SERVER], indirect=True)  # which has no lock
def test_two_cells_at_once_are_nested_in_one_run(
    ledger: Ledger, store: FolderStore, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that the release has no run yet, when the first of them creates one."""
    store.add_bundle(bundle)
    both, search, looked = threading.Barrier(2), Mlflow.runs, threading.local()

    def runs(self: Mlflow, experiment_id: str, wanted: str, order_by: str | None = None) -> list[Any]:
        found = search(self, experiment_id, wanted, order_by)
        if f"'{RELEASE_KIND}'" in wanted and not hasattr(looked, "once"):
            looked.once = True
            both.wait(60)
        return found

    monkeypatch.setattr(Mlflow, "runs", runs)
    with ThreadPoolExecutor(2) as pool:
        cells = ("iphone-15", "pixel-9")
        rows = list(pool.map(lambda cell: open_ledger(ledger.uri, store).register(registration(bundle, cell)), cells))
    (parent,) = releases_of(ledger)
    assert [client_of(ledger).get_run(row.run_id).data.tags["mlflow.parentRunId"] for row in rows] == [
        parent.info.run_id
    ] * 2
    assert parent.info.status == "FINISHED"


@pytest.mark.parametrize("databases", [SERVER], indirect=True)  # which has no lock
def test_of_two_first_cells_at_once_the_later_takes_itself_back(
    ledger: Ledger, store: FolderStore, bundle: Bundle, tmp_path: Path
) -> None:
    """A job of an older checkpoint registers between the look and the writing of another one."""
    store.add_bundle(bundle)
    stale = made_from(tmp_path / "stale", checkpoint=OTHER_CHECKPOINT)
    store.add_bundle(stale)

    class Late(Ledger):
        def _require_open(self, entry: Registration, rows: object) -> None:  # after the check
            ledger.register(registration(bundle, "iphone-15"))

    with pytest.raises(RegistryError, match="is one release: its cell iphone-15 has checkpoint"):
        Late(ledger.uri, store).register(registration(stale, "pixel-9"))
    assert [row.cell for row in ledger.versions("phi")] == ["iphone-15"]
    assert client_of(ledger).search_model_versions("name = 'phi.pixel-9'") == []


def test_a_promoted_release_does_not_change(begun: Ledger, kept: KeptRegistry, bundle: Bundle) -> None:
    begun.register(registration(bundle, "pixel-9", tokens="512"))
    promote(begun, Reference.parse("phi:1.0.0"), "production", who="ann")
    with pytest.raises(RegistryError, match=r"was promoted to production on .*: its cells are iphone-15, pixel-9"):
        begun.plan_release("phi", VERSION, ["iphone-15"])
    with pytest.raises(RegistryError, match="cell galaxy-s24 is none of its cells, iphone-15, pixel-9"):
        begun.register(registration(bundle, "galaxy-s24", tokens="512"))
    begun.plan_release("phi", VERSION, ["pixel-9", "iphone-15"])
    assert begun.noted("phi", VERSION).cells == ("iphone-15", "pixel-9")
    assert len(begun.versions("phi")) == 2


def test_a_planned_cell_may_follow_a_promotion_of_another(begun: Ledger, bundle: Bundle) -> None:
    promote(begun, Reference.parse("phi:1.0.0@iphone-15"), "staging", who="ann")
    begun.register(registration(bundle, "pixel-9", tokens="512"))
    promote(begun, Reference.parse("phi:1.0.0"), "production", who="ann")


def test_a_release_that_was_never_planned_is_closed_by_its_promotion_too(
    ledger: Ledger, store: FolderStore, bundle: Bundle
) -> None:
    store.add_bundle(bundle)
    ledger.register(entry(bundle))
    promote(ledger, Reference.parse("phi:1.0.0"), "production", who="ann")
    with pytest.raises(RegistryError, match="cell pixel-9 is none of its cells, iphone-15"):
        ledger.register(entry(bundle, cell="pixel-9"))


def test_a_move_cites_evidence_that_show_still_has(begun: Ledger, bundle: Bundle) -> None:
    """The same release run on another machine measures other speeds."""
    heard: list[Event] = []
    ledger = Ledger(begun.uri, begun.store, heard.append)
    before = len(runs_of(ledger))
    again = make_evidence(bundle, kl_mean=0.02)
    measured = replace(registration(bundle, "iphone-15", tokens="512"), evidence=again)
    assert ledger.register(measured).evidence == measured.evidence_digest  # not promoted yet: renewed
    assert len(runs_of(ledger)) == before + 1
    move = promote(ledger, Reference.parse("phi:1.0.0@iphone-15"), "production", who="ann")
    kept = ledger.register(registration(bundle, "iphone-15", tokens="512"))
    assert kept.evidence == move.cells[0].evidence == measured.evidence_digest
    assert ledger.evidence(kept).figures["kl_mean"].value == 0.02
    assert len(runs_of(ledger)) == before + 2
    assert [event.text for event in heard if isinstance(event, Notice)] == [
        "phi:1.0.0@iphone-15 was promoted: the evidence that is registered stays"
    ]
