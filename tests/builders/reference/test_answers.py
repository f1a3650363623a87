"""The reference's answers by drafts are those of greedy decoding, whatever is drafted, in few walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference, batches, reference_answers
from builders.reference.answers import Draft
from tests.support.checkpoints import write_tiny

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [3]]


@dataclass(frozen=True)
class Counting(FloatReference):
    """A reference that counts its walks."""

    walks: tuple[list[int], ...] = ([],)

    def likeliest(self, sequences: np.ndarray) -> np.ndarray:
        self.walks[0].append(1)
        return super().likeliest(sequences)


@pytest.fixture(scope="module")
def greedy(tiny: Checkpoint) -> list[list[int]]:
    reference = FloatReference(tiny)
    return [reference.greedy(np.asarray([prompt]), 12)[0].tolist() for prompt in PROMPTS]


def nothing_right(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    return [[0] * limit for _, limit in zip(sequences, limits, strict=True)]


def one_token(sequences: Sequence[Sequence[int]], _limits: Sequence[int]) -> list[list[int]]:
    return [[1]] * len(sequences)


def test_whatever_is_drafted_the_answer_is_the_references(tiny: Checkpoint, greedy: list[list[int]]) -> None:
    for draft in (nothing_right, one_token):
        assert reference_answers(FloatReference(tiny), PROMPTS, 12, (), draft) == greedy


def test_a_right_draft_takes_one_walk_and_each_correction_one_more(tiny: Checkpoint, greedy: list[list[int]]) -> None:
    whole = {tuple(prompt): [*prompt, *answer] for prompt, answer in zip(PROMPTS, greedy, strict=True)}

    def knowing(wrong: tuple[int, ...]) -> Draft:
        def continued(ids: Sequence[int], limit: int) -> list[int]:
            prompt = next(prompt for prompt in whole if tuple(ids[: len(prompt)]) == prompt)
            found = whole[prompt][len(ids) : len(ids) + limit]
            places = [len(prompt) + place - len(ids) for place in wrong]
            return [(token + 1) % 300 if place in places else token for place, token in enumerate(found)]

        return lambda sequences, limits: list(map(continued, sequences, limits))

    for wrong in ((), (4,), (0, 4, 9)):
        reference = Counting(tiny, walks=([],))
        assert reference_answers(reference, PROMPTS, 12, (), knowing(wrong)) == greedy
        assert len(reference.walks[0]) == len(wrong) + 1


def test_a_stop_id_ends_an_answer_and_belongs_to_it(tiny: Checkpoint, greedy: list[list[int]]) -> None:
    stop = greedy[0][3]
    found = reference_answers(FloatReference(tiny), PROMPTS, 12, (stop,), nothing_right)
    assert found == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in greedy]


def test_answers_are_cached_by_checkpoint_prompts_count_and_stops(tiny: Checkpoint, tmp_path: Path) -> None:
    reference = Counting(tiny, tmp_path / "cache", walks=([],))
    first = reference_answers(reference, PROMPTS, 4, (), nothing_right)
    walks = len(reference.walks[0])
    assert reference_answers(reference, PROMPTS, 4, (), one_token) == first
    assert len(reference.walks[0]) == walks > 0
    stop = first[0][1]
    assert reference_answers(reference, PROMPTS, 4, (stop,), nothing_right)[0] == first[0][: first[0].index(stop) + 1]
    assert len(reference_answers(reference, PROMPTS, 3, (), nothing_right)[0]) == 3
    assert len(reference.walks[0]) > walks


def test_prompts_on_both_sides_of_longropes_edge_keep_their_own_factors(tmp_path: Path) -> None:
    """Short rows that were filled up past the edge would be read with the long factors."""
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=48, context=120, dtype="F16"))
    reference = FloatReference(checkpoint)
    prompts = [[5, 6, 7], [*range(20, 80)], [8] * 36]
    expected = [reference.greedy(np.asarray([prompt]), 12)[0].tolist() for prompt in prompts]
    for draft in (nothing_right, one_token):
        assert reference_answers(reference, prompts, 12, (), draft) == expected
    states = {
        place: rows
        for places, filled in batches(reference, prompts)
        for place, rows in zip(places, reference.states(filled), strict=True)
    }
    for place, prompt in enumerate(prompts):
        own = reference.states(np.asarray([prompt]))[0]
        np.testing.assert_allclose(states[place][: len(prompt)], own, atol=1e-4)
