"""Who may move which channel, and what goes ahead in spite of evidence: refused, enforced, kept."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.bundles import make_bundle
from registry.ledger.channel_moves import LIST_LIMIT, CellMove, Move, VersionId, move_from_tags
from registry.ledger.ledger import Ledger
from registry.promotion import history, promote, rollback
from registry.roles import require_promoter
from targets.errors import Failure, GateError, RegistryError
from targets.project import Roles
from targets.references import Reference, Version
from tests.support.databases import EVERYWHERE, Databases, KeptRegistry, keep_registry
from tests.support.registrations import client_of, entry

DATABASES = EVERYWHERE
LISTED = Roles("phipack.toml", {"production": ("alice", "release-bot@ci-1")})
FREE = Roles("phipack.toml", {})
FIRST, SECOND = Reference.parse("phi:1.0.0"), Reference.parse("phi:1.1.0")


def register_two(ledger: Ledger, home: Path) -> None:
    """Releases 1.0.0, whose evidence passes, and 1.1.0 of two cells, one of which fails its gate."""
    older, newer = make_bundle(home / "older"), make_bundle(home / "newer", {"model.gguf": b"newer"})
    for bundle in (older, newer):
        ledger.store.add_bundle(bundle)
    for cell in ("iphone-15", "pixel-9"):
        ledger.register(entry(older, "1.0.0", cell, target=cell))
        ledger.register(entry(newer, "1.1.0", cell, target=cell, kl_mean=0.2 if cell == "pixel-9" else 0.01))


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("two"), register_two)


@pytest.fixture
def two(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """What `register_two` makes."""
    return kept.again(databases, tmp_path / "home")


def standing(ledger: Ledger) -> dict[str, str]:
    return {row.cell: str(row.release) for row in ledger.versions("phi") if "production" in row.channels}


def test_only_who_is_listed_moves_a_channel_and_the_list_is_kept(two: Ledger) -> None:
    with pytest.raises(RegistryError, match="eve@laptop may not move channel production") as caught:
        promote(two, FIRST, "production", who="eve@laptop", roles=LISTED)
    assert "alice, release-bot@ci-1" in caught.value.problem
    assert "[channels.production] in phipack.toml" in caught.value.problem
    assert standing(two) == {}
    assert history(two, "phi") == []
    promote(two, FIRST, "production", who="alice@anywhere", roles=LISTED)
    (kept,) = history(two, "phi")
    assert kept.promoters == ("alice", "release-bot@ci-1")
    run = client_of(two).get_run(kept.id)
    assert json.loads(run.data.tags["phipack.promoters"]) == ["alice", "release-bot@ci-1"]


@pytest.mark.client_side
def test_other_channels_and_projects_without_a_list_are_everybodys(two: Ledger) -> None:
    assert promote(two, FIRST, "staging", who="eve@laptop", roles=LISTED).promoters is None
    assert promote(two, FIRST, "production", who="eve@laptop", roles=FREE).promoters is None
    assert promote(two, FIRST, "candidate", who="eve@laptop").promoters is None


@pytest.mark.client_side
def test_without_a_project_file_the_kept_list_holds(two: Ledger) -> None:
    promote(two, FIRST, "production", who="alice@a", roles=LISTED)
    with pytest.raises(RegistryError, match=r"kept since the promotion of 1\.0\.0 to production"):
        promote(two, SECOND, "production", who="eve@laptop")
    with pytest.raises(RegistryError, match="eve@laptop may not"):
        rollback(two, "phi", "production", who="eve@laptop")
    moved = promote(two, Reference.parse("phi:1.1.0@iphone-15"), "production", who="alice@b")
    assert moved.promoters == ("alice", "release-bot@ci-1")
    with pytest.raises(RegistryError, match="eve@laptop may not"):
        rollback(two, "phi", "production", who="eve@laptop")
    # The project file lifts it again, for all who come later.
    rollback(two, "phi", "production", who="alice@a", roles=FREE)
    assert promote(two, Reference.parse("phi:1.1.0@iphone-15"), "production", who="eve@laptop").promoters is None


@pytest.mark.client_side
def test_rollback_asks_the_same_list(two: Ledger) -> None:
    promote(two, FIRST, "production", who="alice@a", roles=LISTED)
    promote(two, Reference.parse("phi:1.1.0@iphone-15"), "production", who="alice@a", roles=LISTED)
    with pytest.raises(RegistryError, match="eve@laptop may not"):
        rollback(two, "phi", "production", who="eve@laptop", roles=LISTED)
    assert standing(two) == {"iphone-15": "1.1.0", "pixel-9": "1.0.0"}
    back = rollback(two, "phi", "production", who="release-bot@ci-1", roles=LISTED)
    assert back.promoters == LISTED.promoters["production"]
    rows = {(row.cell, str(row.release)): row.evidence for row in two.versions("phi")}
    assert {part.cell: part.evidence for part in back.cells} == {"iphone-15": rows["iphone-15", "1.0.0"]}
    assert history(two, "phi")[0] == replace(back, when=history(two, "phi")[0].when)


@pytest.mark.client_side
def test_an_override_goes_ahead_for_a_reason_and_is_kept(two: Ledger) -> None:
    two.plan_release("phi", Version(1, 1, 0), ["iphone-15", "pixel-9", "absent"])
    with pytest.raises(GateError, match=r"kl_mean is 0\.2"):
        promote(two, SECOND, "production", who="eve@laptop")
    for nothing in ("", "  "):
        with pytest.raises(RegistryError, match="an override needs a reason"):
            promote(two, SECOND, "production", who="eve@laptop", override_reason=nothing)
    assert standing(two) == {}
    promote(two, SECOND, "production", who="eve@laptop", override_reason="the demo is today")
    assert standing(two) == {"iphone-15": "1.1.0", "pixel-9": "1.1.0"}
    (kept,) = history(two, "phi")
    assert kept.why == "the demo is today"
    assert kept.overrode == (
        Failure("absent", "not registered for 1.1.0, which plans this cell"),
        Failure("pixel-9", "kl_mean is 0.2, must be <= 0.05 (asked by pixel-9)"),
    )
    assert {part.cell for part in kept.cells} == {"iphone-15", "pixel-9"}


@pytest.mark.client_side
def test_an_override_that_nothing_stood_against_is_a_plain_promotion(two: Ledger) -> None:
    assert promote(two, FIRST, "production", who="eve@laptop", override_reason="in a hurry").overrode == ()


@pytest.mark.client_side
def test_no_override_gets_round_a_list_or_lost_bytes(two: Ledger, kept: KeptRegistry) -> None:
    with pytest.raises(RegistryError, match="eve@laptop may not"):
        promote(two, SECOND, "production", who="eve@laptop", override_reason="please", roles=LISTED)
    (version,) = {row.digest for row in two.versions("phi") if str(row.release) == "1.1.0"}
    (file,) = kept.store.manifest(version).files
    Path(kept.store.location_of(f"sha256:{file.sha256}")).unlink()
    with pytest.raises(GateError, match="is not in its store"):
        promote(two, SECOND, "production", who="alice@a", override_reason="please", roles=LISTED)
    assert standing(two) == {}


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        ("alice@ci-1", True),
        ("alice", True),
        ("alice@corp.example@ci-1", False),
        ("malice@ci-1", False),
        ("alice2@ci-1", False),
        ("release-bot@ci-1", True),
        ("release-bot@ci-2", False),
        ("release-bot", False),
        ("", False),
        ("@ci-1", False),
    ],
)
def test_names_are_a_users_on_any_host_or_on_one(who: str, allowed: bool) -> None:
    if allowed:
        assert require_promoter(who, "production", (), LISTED) == LISTED.promoters["production"]
    else:
        with pytest.raises(RegistryError, match="may not move"):
            require_promoter(who, "production", (), LISTED)


def move(**changed: object) -> Move:
    cells = (CellMove("pixel-9", None, VersionId("1.0.0", 1, "sha256:x")),)
    plain = Move("run", "promotion", "phi", "production", "ann", "", datetime(2026, 1, 1, tzinfo=UTC), cells)
    return replace(plain, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("newer", [{"state": "undone"}, {"state": "unfinished"}, {"channel": "staging"}])
def test_the_kept_list_is_that_of_the_channels_last_move_that_was_done(newer: dict[str, str]) -> None:
    moves = [move(**newer), move(promoters=("alice",)), move()]
    with pytest.raises(RegistryError):
        require_promoter("eve@laptop", "production", moves, None)
    assert require_promoter("eve@laptop", "production", moves[2:], None) is None


@given(
    st.none() | st.lists(st.text(min_size=1, max_size=64), min_size=1, max_size=50).map(tuple),
    st.lists(st.builds(Failure, st.text(max_size=30), st.text(max_size=30)), max_size=5).map(tuple),
)
def test_lists_survive_their_tags(promoters: tuple[str, ...] | None, overrode: tuple[Failure, ...]) -> None:
    given_move = move(promoters=promoters, overrode=overrode)
    tags = given_move.to_tags()
    assert move_from_tags(tags, run_id="run", model="phi", when=given_move.when, state="done") == given_move


def test_what_does_not_fit_into_a_tag_is_counted() -> None:
    tags = move(overrode=tuple(Failure(f"cell-{number}", "x" * 500) for number in range(40))).to_tags()
    kept = json.loads(tags["phipack.overrode"])
    assert len(tags["phipack.overrode"]) <= LIST_LIMIT + 60
    assert kept[0] == {"cell": "cell-0", "problem": "x" * 500}
    assert kept[-1] == {"cell": "", "problem": f"and {40 - (len(kept) - 1)} more"}


def test_overridden_failures_that_were_kept_as_texts_are_read() -> None:
    texts = ["pixel-9: kl_mean is 0.2, must be <= 0.05 (asked by pixel-9)", "and 3 more"]
    tags = move().to_tags() | {"phipack.overrode": json.dumps(texts)}
    read = move_from_tags(tags, run_id="run", model="phi", when=datetime.now(UTC), state="done")
    assert read.overrode == (
        Failure("pixel-9", "kl_mean is 0.2, must be <= 0.05 (asked by pixel-9)"),
        Failure("", "and 3 more"),
    )


@pytest.mark.parametrize("tag", ["promoters", "overrode"])
@pytest.mark.parametrize(
    "raw", ["alice", '{"a": 1}', "[1]", '[{"cell": 1, "problem": 2}]', '[{"a": "b"}]', "[" * 100_000]
)
def test_a_list_changed_by_hand_is_no_list(raw: str, tag: str) -> None:
    tags = move().to_tags() | {f"phipack.{tag}": raw}
    with pytest.raises(RegistryError, match="damaged record"):
        move_from_tags(tags, run_id="run", model="phi", when=datetime.now(UTC), state="done")
