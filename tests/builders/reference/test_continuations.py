"""What is known of the reference's continuations: right whoever asks, and read no more often than needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.reference import Continuations, FloatReference
from builders.reference.sequences import Sequences
from targets.progress import Event, Step

PROMPTS = np.array([[5, 6, 7], [8, 9, 10], [3, 4, 5]])
COUNT = 8


class Overheard(Sequences):
    """Sequences that report how many of them a walk reads."""

    walks: list[int]

    def read(self, new: Mapping[int, Sequence[int]]) -> dict[int, NDArray[np.float32]]:
        self.walks.append(len(new))
        return super().read(new)


@dataclass(frozen=True)
class Counting(FloatReference):
    """A reference that counts the sequences of each walk."""

    walks: tuple[list[int], ...] = ([],)

    def sequences(self, rooms: Sequence[int]) -> Sequences:
        found = Overheard(self.checkpoint.architecture, self._source, rooms)
        found.walks = self.walks[0]
        return found


@pytest.fixture(scope="module")
def own(tiny: Checkpoint) -> NDArray[np.int64]:
    """What the reference writes, a walk a token."""
    return FloatReference(tiny).greedy(PROMPTS, COUNT)


def written(
    own: NDArray[np.int64], wrong: Sequence[int], known: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Return what a bundle writes that differs at these places, up to the first that differs from the known tokens."""
    found = []
    for ids, place, seen in zip(own, wrong, known, strict=True):
        tokens = ids.copy()
        tokens[place:] = (tokens[place:] + 1) % 300
        found.append(tokens[: place + 1] if place < len(seen) else tokens)
    return found


def test_bundles_are_read_in_one_walk_or_none(tiny: Checkpoint, tmp_path: Path, own: NDArray[np.int64]) -> None:
    walks: list[int] = []

    def same(*wrong: int) -> list[int]:
        reference = Counting(tiny, tmp_path / "cache", walks=(walks,))  # each bundle of a release has its own
        continuations = Continuations(reference, PROMPTS, COUNT)
        return continuations.same_tokens(written(own, wrong, continuations.known))

    assert same(2, 5, 8) == [2, 5, 8]
    assert walks == [3]
    assert same(1, 5, 3) == [1, 5, 3]
    assert walks == [3]  # all of it was known
    assert same(4, 3, 8) == [4, 3, 8]
    assert walks == [3, 1]  # only the first goes further than what was known
    known = Continuations(FloatReference(tiny, tmp_path / "cache"), PROMPTS, COUNT).known
    assert [ids.tolist() for ids in known] == [own[0, :5].tolist(), own[1, :6].tolist(), own[2].tolist()]


def test_without_a_cache_every_bundle_is_read(tiny: Checkpoint, own: NDArray[np.int64]) -> None:
    for _ in range(2):
        reference = Counting(tiny, walks=([],))
        continuations = Continuations(reference, PROMPTS, COUNT)
        assert [len(ids) for ids in continuations.known] == [0, 0, 0]
        assert continuations.same_tokens([*own]) == [8, 8, 8]
        assert reference.walks[0] == [3]


def test_a_walk_is_reported_as_the_references(tiny: Checkpoint, own: NDArray[np.int64]) -> None:
    events: list[Event] = []
    Continuations(FloatReference(tiny, on_progress=events.append), PROMPTS, COUNT).same_tokens([*own])
    assert events == [Step("reference", 0, 3, "prompts"), Step("reference", 3, 3, "prompts")]


def test_each_prompt_is_known_by_itself_and_up_to_any_count(
    tiny: Checkpoint, tmp_path: Path, own: NDArray[np.int64]
) -> None:
    reference = FloatReference(tiny, tmp_path / "cache")
    Continuations(reference, PROMPTS, COUNT).same_tokens([*own])
    assert [len(ids) for ids in Continuations(reference, PROMPTS, COUNT).known] == [8, 8, 8]
    assert [len(ids) for ids in Continuations(reference, PROMPTS, COUNT - 1).known] == [7, 7, 7]
    other = Continuations(reference, np.array([*PROMPTS[::-1], [5, 6, 8]]), COUNT + 1)
    assert [ids.tolist() for ids in other.known] == [*own[::-1].tolist(), []]
