"""What references come to, and what is said where they come to nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.ledger.versions import (
    BUDGET_TAG,
    CELL_TAG,
    CHECKPOINT_TAG,
    DIGEST_TAG,
    EVIDENCE_TAG,
    GATES_TAG,
    MODEL_TAG,
    RECIPE_TAG,
    RELEASE_TAG,
    RUN_TAG,
    STORE_TAG,
    TARGET_TAG,
    CellVersion,
    resolve,
    settled,
    time_of,
    version_from_tags,
)
from targets.errors import RegistryError
from targets.references import Reference, Version


def row(cell: str, release: str, *channels: str, number: int = 1, passed: bool = True) -> CellVersion:
    return CellVersion(
        model="phi",
        cell=cell,
        registered_model=f"phi.{cell}",
        number=number,
        release=Version.parse(release),
        digest=f"sha256:{cell}-{release}",
        checkpoint="sha256:c",
        recipe="gguf-q4_0",
        target=cell,
        gates_passed=passed,
        evidence="sha256:e",
        run_id="run",
        store="file:///store",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        channels=channels,
    )


ROWS = [
    row("iphone-15", "1.0.0"),
    row("iphone-15", "1.1.0", "production"),
    row("iphone-15", "1.2.0", "staging"),
    row("iphone-15", "1.3.0", passed=False),
    row("iphone-15", "2.0.0-rc.1", "candidate"),
    row("pixel-9", "1.0.0", "production"),
    row("pixel-9", "1.1.0"),
    row("pixel-9", "1.2.0", passed=False),
]


def named(reference: str) -> list[str]:
    return [version.reference for version in resolve(Reference.parse(reference), ROWS)]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("phi", "phi:1.1.0@iphone-15 phi:1.0.0@pixel-9"),
        ("phi@pixel-9", "phi:1.0.0@pixel-9"),
        ("phi:production", "phi:1.1.0@iphone-15 phi:1.0.0@pixel-9"),
        ("phi:staging", "phi:1.2.0@iphone-15"),
        ("phi:1.0.0", "phi:1.0.0@iphone-15 phi:1.0.0@pixel-9"),
        ("phi:1.3.0@iphone-15", "phi:1.3.0@iphone-15"),
        ("phi:^1@iphone-15", "phi:1.2.0@iphone-15"),  # 1.3.0 failed its gates
        ("phi:^1@pixel-9", "phi:1.1.0@pixel-9"),
        ("phi:^1", "phi:1.1.0@iphone-15 phi:1.1.0@pixel-9"),  # the highest release of which no cell failed
        ("phi:~1.0", "phi:1.0.0@iphone-15 phi:1.0.0@pixel-9"),
        ("phi:^2.0.0-rc.1", "phi:2.0.0-rc.1@iphone-15"),
    ],
)
def test_references_resolve(reference: str, expected: str) -> None:
    assert named(reference) == expected.split()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("phi:4.0.0", "name a version: 1.0.0, 1.1.0, 1.2.0 (gates failed), 1.3.0 (gates failed), 2.0.0-rc.1"),
        ("phi:^2", "channels: candidate, production, staging"),
        ("phi:staging@pixel-9", "name a version: 1.0.0, 1.1.0, 1.2.0 (gates failed); channels: production"),
        ("phi:1.1.0@pixel-8", "did you mean 'pixel-9'?"),
        ("phi:beta", "no version matches phi:beta"),
    ],
)
def test_what_names_nothing_says_what_there_is(reference: str, words: str) -> None:
    with pytest.raises(RegistryError) as caught:
        named(reference)
    assert words in str(caught.value)


def test_a_model_without_production_says_so() -> None:
    with pytest.raises(RegistryError, match="its channel production") as caught:
        resolve(Reference.parse("phi"), [row("pixel-9", "1.0.0")])
    assert "none yet" in str(caught.value)


def test_an_unknown_model_is_told_apart_from_an_empty_registry() -> None:
    with pytest.raises(RegistryError, match="did you mean 'phi-mini'"):
        resolve(Reference.parse("phi-mimi"), [], ["phi-mini", "other"])
    with pytest.raises(RegistryError, match="phipack release"):
        resolve(Reference.parse("phi"), [], [])


@given(st.permutations([replace(version, number=number) for number, version in enumerate(ROWS)]))
def test_the_order_of_rows_does_not_matter(rows: list[CellVersion]) -> None:
    assert settled(rows) == settled(list(reversed(rows)))
    assert resolve(Reference.parse("phi:^1"), rows) == resolve(Reference.parse("phi:^1"), settled(rows))


def test_of_racers_the_lower_number_counts() -> None:
    racers = [row("a", "1.0.0", number=7), row("a", "1.0.0", number=3), row("a", "1.0.0", number=12)]
    assert [version.number for version in settled(racers)] == [3]


def test_tags_changed_by_hand_are_named() -> None:
    with pytest.raises(RegistryError, match=r"version 3 of phi\.a: tag phipack\.model"):
        version_from_tags("phi.a", 3, {}, created_ms=0, channels=())


@pytest.mark.parametrize("inputs", ["[" * 100_000, '{"a": ' * 900 + "1" + "}" * 900, "1" * 5000, '{"a": "\\ud800"}'])
def test_tags_that_no_json_reader_survives_are_damaged(inputs: str) -> None:
    tags = {f"phipack.{name}": "x" for name in ("model", "cell", "checkpoint", "recipe", "target", "digest")}
    tags |= {f"phipack.{name}": "x" for name in ("gates", "evidence", "run", "store")}
    tags |= {"phipack.release": "1.0.0", "phipack.inputs": inputs}
    with pytest.raises(RegistryError, match=r"tag phipack\.inputs is missing or wrong"):
        version_from_tags("phi.a", 1, tags, created_ms=0, channels=())


@pytest.mark.parametrize("milliseconds", [10**30, -(10**30), 10**400])
def test_a_time_that_no_calendar_has_is_reported(milliseconds: int) -> None:
    with pytest.raises(RegistryError, match=r"version 1 of phi\.a has no time that a calendar has"):
        time_of(milliseconds, "version 1 of phi.a")


def test_a_version_s_calibration_is_one_of_its_inputs() -> None:
    plain = row("iphone-15", "1.0.0")
    assert plain.calibration == "none"
    inputs = {"checkpoint": "sha256:c", "calibration.light": "sha256:t", "tool.numpy": "2.3.5"}
    assert replace(plain, inputs=inputs).calibration == "light"


def test_a_version_s_budget_is_a_tag_that_others_do_not_have() -> None:
    tags = {
        **dict.fromkeys((MODEL_TAG, CELL_TAG, DIGEST_TAG, CHECKPOINT_TAG, RECIPE_TAG, TARGET_TAG), "x"),
        **dict.fromkeys((GATES_TAG, EVIDENCE_TAG, RUN_TAG, STORE_TAG), "x"),
        RELEASE_TAG: "1.0.0",
    }
    assert version_from_tags("x.x", 1, tags, created_ms=0, channels=()).budget is None
    tags[BUDGET_TAG] = "at most 2000000000 B"
    assert version_from_tags("x.x", 1, tags, created_ms=0, channels=()).budget == "at most 2000000000 B"
