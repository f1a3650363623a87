"""The reference's answers are those of greedy decoding, whatever is guessed, in few walks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import Ending, FloatReference, batches, reference_answers, states_after
from builders.reference.answers import Draft
from builders.reference.sequences import Sequences
from tests.support.checkpoints import write_tiny

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [3]]


class Overheard(Sequences):
    """Sequences that report each walk: the tokens that are read of each."""

    walks: list[list[int]]

    def read(self, new: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        self.walks.append([len(tokens) for tokens in new.values()])
        return super().read(new)


@dataclass(frozen=True)
class Counting(FloatReference):
    """A reference that counts its walks."""

    walks: tuple[list[list[int]], ...] = ([],)

    def sequences(self, rooms: Sequence[int]) -> Sequences:
        found = Overheard(self.checkpoint.architecture, self._source, rooms)
        found.walks = self.walks[0]
        return found


@pytest.fixture(scope="module")
def greedy(tiny: Checkpoint) -> list[list[int]]:
    reference = FloatReference(tiny)
    return [reference.greedy(np.asarray([prompt]), 12)[0].tolist() for prompt in PROMPTS]


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have weights read in each walk, as those of a large model are."""
    monkeypatch.setattr("builders.reference.sequences.RESIDENT_BYTES", 0)


def nothing_right(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    return [[0] * limit for _, limit in zip(sequences, limits, strict=True)]


def one_token(sequences: Sequence[Sequence[int]], _limits: Sequence[int]) -> list[list[int]]:
    return [[1]] * len(sequences)


def with_errors(greedy: list[list[int]], *wrong: int) -> list[list[int]]:
    return [[(token + 1) % 300 if at in wrong else token for at, token in enumerate(ids)] for ids in greedy]


@pytest.mark.parametrize("wrong", [(), (0,), (4,), (11,), (0, 4, 9), range(12)])
def test_whatever_is_guessed_the_answer_is_the_references(
    tiny: Checkpoint, greedy: list[list[int]], wrong: Sequence[int]
) -> None:
    guesses = with_errors(greedy, *wrong)
    assert reference_answers(FloatReference(tiny), PROMPTS, 12, Ending(), guesses) == greedy
    assert reference_answers(FloatReference(tiny), PROMPTS, 12, Ending(), [ids[:5] for ids in guesses]) == greedy


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("draft", [nothing_right, one_token, None])
def test_whatever_is_drafted_the_answer_is_the_references(
    tiny: Checkpoint, greedy: list[list[int]], draft: Draft | None
) -> None:
    assert reference_answers(FloatReference(tiny), PROMPTS, 12, Ending(), draft=draft) == greedy


def test_a_guess_is_read_in_growing_parts_and_the_rest_a_token_a_walk(
    tiny: Checkpoint, greedy: list[list[int]]
) -> None:
    reference = Counting(tiny, walks=([],))
    assert reference_answers(reference, PROMPTS[:1], 12, Ending(), greedy[:1]) == greedy[:1]
    assert reference.walks[0] == [[3 + 4], [1 + 6]]  # each walk yields one token more than it reads of the guess
    reference = Counting(tiny, walks=([],))
    assert reference_answers(reference, PROMPTS[:1], 12, Ending(), with_errors(greedy[:1], 5)) == greedy[:1]
    assert reference.walks[0] == [[3 + 4], [1 + 6], *[[1]] * 6]


@pytest.mark.usefixtures("_large")
def test_where_a_walk_reads_all_weights_a_bundle_drafts_no_more_than_is_needed(
    tiny: Checkpoint, greedy: list[list[int]]
) -> None:
    whole = {tuple(prompt): [*prompt, *answer] for prompt, answer in zip(PROMPTS, greedy, strict=True)}
    asked: list[tuple[int, int]] = []

    def knowing(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
        asked.extend((len(ids), limit) for ids, limit in zip(sequences, limits, strict=True))
        known = [next(text for text in whole.values() if text[: len(ids)] == list(ids)) for ids in sequences]
        every = zip(sequences, limits, known, strict=True)
        return [text[len(ids) : len(ids) + limit] for ids, limit, text in every]

    reference = Counting(tiny, walks=([],))
    assert reference_answers(reference, PROMPTS[:1], 12, Ending(), with_errors(greedy[:1], 2), knowing) == greedy[:1]
    assert reference.walks[0] == [[3 + 4], [1 + 4], [1 + 3]]
    assert asked == [(3 + 3, 4), (3 + 8, 3)]


def test_a_stop_id_ends_an_answer_and_belongs_to_it(tiny: Checkpoint, greedy: list[list[int]]) -> None:
    stop = greedy[0][3]
    found = reference_answers(FloatReference(tiny), PROMPTS, 12, Ending((stop,)))
    assert found == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in greedy]


def test_what_is_known_serves_every_count_and_every_stop_id(
    tiny: Checkpoint, tmp_path: Path, greedy: list[list[int]]
) -> None:
    reference = Counting(tiny, tmp_path / "cache", walks=([],))
    assert reference_answers(reference, PROMPTS, 4, Ending()) == [ids[:4] for ids in greedy]
    walks = len(reference.walks[0])
    stop = greedy[0][1]
    assert reference_answers(reference, PROMPTS[:1], 4, Ending((stop,)))[0] == greedy[0][: greedy[0].index(stop) + 1]
    assert reference_answers(reference, PROMPTS[::-1], 3, Ending()) == [ids[:3] for ids in greedy[::-1]]
    assert len(reference.walks[0]) == walks > 0
    assert reference_answers(reference, PROMPTS, 6, Ending(), with_errors(greedy, 5)) == [ids[:6] for ids in greedy]
    assert reference.walks[0][walks:] == [[len(ids) + 4 + 1 for ids in PROMPTS]]  # from what was known on


def test_the_states_after_prompts_are_those_that_answers_have_left(tiny: Checkpoint, tmp_path: Path) -> None:
    prompts = [[*range(70), 5], [*range(70), 6, 7], [9]]
    walked = [FloatReference(tiny).states(np.asarray([prompt]))[0, -1] for prompt in prompts]
    reference = FloatReference(tiny, tmp_path / "cache")
    np.testing.assert_array_equal(states_after(FloatReference(tiny), prompts[:1])[0], walked[0])
    reference_answers(
        reference, prompts[:2], 6, Ending(), with_errors([[0] * 6] * 2, 0)
    )  # what they share is read once
    kept = sorted(path.name for path in (tmp_path / "cache").glob("*.state"))
    assert len(kept) == 2
    for found, expected in zip(states_after(reference, prompts), walked, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert len([*(tmp_path / "cache").glob("*.hidden")]) == 1  # of the prompt that was not answered


def test_what_was_found_before_an_interruption_is_kept(
    tiny: Checkpoint, tmp_path: Path, greedy: list[list[int]]
) -> None:
    class Interrupted(Overheard):
        def read(self, new: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
            if len(self.walks) == 3:
                raise KeyboardInterrupt
            return super().read(new)

    class Interrupting(Counting):
        def sequences(self, rooms: Sequence[int]) -> Sequences:
            found = Interrupted(self.checkpoint.architecture, self._source, rooms)
            found.walks = []
            return found

    with pytest.raises(KeyboardInterrupt):
        reference_answers(Interrupting(tiny, tmp_path / "cache"), PROMPTS, 12, Ending())
    reference = Counting(tiny, tmp_path / "cache", walks=([],))
    assert reference_answers(reference, PROMPTS, 12, Ending()) == greedy
    assert len(reference.walks[0]) == 12 - 3


def test_prompts_whose_keys_do_not_fit_together_are_answered_in_turn(
    tiny: Checkpoint, greedy: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.reference.answers.CACHE_BYTES", 1)
    reference = Counting(tiny, walks=([],))
    assert reference_answers(reference, PROMPTS, 12, Ending()) == greedy
    assert {len(walk) for walk in reference.walks[0]} == {1}


def test_prompts_on_both_sides_of_longropes_edge_keep_their_own_factors(tmp_path: Path) -> None:
    """Short rows that were filled up past the edge would be read with the long factors."""
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=48, context=120, dtype="F16"))
    reference = FloatReference(checkpoint)
    prompts = [[5, 6, 7], [*range(20, 80)], [8] * 36]
    expected = [reference.greedy(np.asarray([prompt]), 12)[0].tolist() for prompt in prompts]
    for guesses in ((), [[1] * 12] * 3, expected):
        assert reference_answers(reference, prompts, 12, Ending(), guesses) == expected
    states = {
        place: rows
        for places, filled in batches(reference, prompts)
        for place, rows in zip(places, reference.states(filled), strict=True)
    }
    for place, prompt in enumerate(prompts):
        own = reference.states(np.asarray([prompt]))[0]
        np.testing.assert_allclose(states[place][: len(prompt)], own, atol=1e-4)
