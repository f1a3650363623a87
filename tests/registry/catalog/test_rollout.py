"""Staged rollout: nobody goes back, shares are what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.catalog.rollout import ALL, Stage, basis_points_of, position_in_rollout, stage_of, stages_after
from targets.errors import PublicationError

IDS = [f"installation {number}" for number in range(4000)]


def test_places_are_what_the_wire_format_says() -> None:
    assert position_in_rollout("phi-3-mini", "1.4.0", "0f2e") == 1556


def test_a_tenth_is_a_tenth_and_another_one_in_each_release() -> None:
    first = {one for one in IDS if position_in_rollout("m", "1.0.0", one) < 1000}
    second = {one for one in IDS if position_in_rollout("m", "1.1.0", one) < 1000}
    assert 320 < len(first) < 480
    assert 10 < len(first & second) < 80  # a hundredth, were they independent


@given(st.lists(st.tuples(st.booleans(), st.integers(1, ALL)), min_size=1, max_size=12), st.text(max_size=20))
def test_nobody_goes_back_while_releases_only_widen_and_follow(steps: list[tuple[bool, int]], install_id: str) -> None:
    stages: list[Stage] = []
    number, seen = 0, -1
    for begins, share in steps:
        number += begins or not stages
        wide = max(share, stages[0].basis_points) if stages and stages[0].release == f"1.{number}.0" else share
        stages = stages_after(stages, f"1.{number}.0", wide)
        found = stage_of("m", stages, install_id)
        now = -1 if found is None else int(found.release.split(".")[1])
        assert now >= seen
        seen = now
    assert [one.basis_points for one in stages[:-1]] == [
        one.basis_points for one in stages[:-1] if one.basis_points < ALL
    ]


def test_the_release_before_stays_for_the_others_until_the_new_one_is_for_all() -> None:
    stages = stages_after([], "1.0.0", ALL)
    stages = stages_after(stages, "1.1.0", 2000)
    assert [(one.release, one.basis_points) for one in stages] == [("1.1.0", 2000), ("1.0.0", ALL)]
    stages = stages_after(stages, "1.2.0", 500)
    assert [one.release for one in stages] == ["1.2.0", "1.1.0", "1.0.0"]
    assert [one.release for one in stages_after(stages, "1.2.0", ALL)] == ["1.2.0"]


def test_a_rollback_drops_what_came_after() -> None:
    stages = [Stage(release="1.1.0", basis_points=2000), Stage(release="1.0.0", basis_points=ALL)]
    assert [one.release for one in stages_after(stages, "1.0.0", ALL)] == ["1.0.0"]


@pytest.mark.parametrize("release", ["1.1.0", "1.0.0"])
def test_a_share_never_shrinks(release: str) -> None:
    stages = [Stage(release="1.1.0", basis_points=2000), Stage(release="1.0.0", basis_points=ALL)]
    with pytest.raises(PublicationError, match="would take it back"):
        stages_after(stages, release, 1000)


def test_who_has_no_name_gets_what_is_out_for_all() -> None:
    stages = [Stage(release="1.1.0", basis_points=ALL - 1), Stage(release="1.0.0", basis_points=ALL)]
    found = stage_of("m", stages, None)
    assert found is not None
    assert found.release == "1.0.0"


@pytest.mark.parametrize(
    ("percent", "basis_points"), [(100, ALL), (99.999, ALL - 1), (99.99, ALL - 1), (10, 1000), (0.014, 1), (0.01, 1)]
)
def test_a_share_below_all_is_never_all(percent: float, basis_points: int) -> None:
    assert basis_points_of(percent) == basis_points


@pytest.mark.parametrize("percent", [0, 0.001, -1, 100.001, float("nan"), float("inf")])
def test_a_share_that_no_stage_can_have_is_refused(percent: float) -> None:
    with pytest.raises(PublicationError, match="and at most 100 %"):
        basis_points_of(percent)
