"""A move as its run's tags, and which move a rollback undoes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.ledger.channel_moves import CellMove, Move, VersionId, move_from_tags, move_to_undo
from targets.errors import RegistryError

stands = st.none() | st.builds(
    VersionId, st.just("1.0.0") | st.just("2.0.0-rc.1"), st.integers(1, 99), st.just("sha256:" + "a" * 64)
)


moves = st.builds(
    Move,
    id=st.just("run"),
    kind=st.sampled_from(["promotion", "rollback"]),
    model=st.just("phi"),
    channel=st.sampled_from(["production", "staging"]),
    who=st.text(max_size=20),
    why=st.text(max_size=20),
    when=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    cells=st.lists(
        st.builds(
            CellMove,
            st.from_regex(r"[a-z0-9][a-z0-9._-]{0,5}", fullmatch=True),
            stands,
            stands,
            st.none() | st.just("sha256:" + "e" * 64),
            st.just("") | st.just("f" * 32),
        ),
        max_size=3,
        unique_by=lambda part: part.cell,
    ).map(lambda parts: tuple(sorted(parts, key=lambda part: part.cell))),
    state=st.sampled_from(["done", "undone", "unfinished"]),
    undoes=st.none() | st.just("other"),
)


@given(moves)
def test_a_move_survives_its_tags(move: Move) -> None:
    tags = move.to_tags()
    assert move_from_tags(tags, run_id="run", model="phi", when=move.when, state=move.state) == move


def test_a_record_changed_by_hand_is_named() -> None:
    with pytest.raises(RegistryError, match="run r1 of model phi is a damaged record"):
        move_from_tags({"phipack.move": "jump"}, run_id="r1", model="phi", when=datetime.now(UTC), state="done")


@given(st.lists(st.sampled_from(["promotion", "rollback"]), max_size=12))
def test_rollback_is_a_stack(steps: list[str]) -> None:
    """Against a plain stack: a promotion pushes, a rollback pops."""
    kept: list[Move] = []
    stack: list[str] = []
    for number, kind in enumerate(steps):
        undoes = None
        if kind == "rollback":
            last = move_to_undo(list(reversed(kept)), "production")
            assert (last.id if last else None) == (stack[-1] if stack else None)
            if last is None:
                continue
            undoes = stack.pop()
        else:
            stack.append(str(number))
        when = datetime(2026, 1, 1, tzinfo=UTC)
        kept.append(Move(str(number), kind, "phi", "production", "", "", when, (), undoes=undoes))  # type: ignore[arg-type]
