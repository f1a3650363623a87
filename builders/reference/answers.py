"""The reference's own greedy answers, in lockstep: each walk over the layers takes all prompts some tokens further.

A bundle's answer is a guess at what the reference writes. One walk says what the reference would have written after
every token of a guess. Up to the first that differs, the guess is the reference's answer, and so is the token that the
walk puts in its place: speculative decoding (arXiv 2211.17192) with a greedy target. The tokens are those of greedy
decoding, whatever is guessed.

Past that token the bundle's answer is no use. Where the weights stay in memory, a walk is cheap, and a token a walk
follows. Where they are read in each walk, the bundle drafts a few tokens more: a draft that is half wrong costs less
than a walk. Guesses that were right throughout are followed by longer ones.

What is found is kept, prompt by prompt (`words.py`), also where it is interrupted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from builders.reference.logits import FloatReference
from builders.reference.sequences import CACHE_BYTES, Sequences, cache_bytes
from builders.reference.words import Words
from targets.progress import Step

# Of several sequences: ids so far, how many may follow each -> what follows each.
Draft = Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]
# Tokens that are read at once before it is known whether they are right: of small trained models with four bits, four
# of five are, and a token that is read costs the more the more prompts there are.
_FIRST_GUESS, _LONGEST_GUESS = 4, 64
SHARED = 64  # tokens with which all prompts begin, such as worked examples, from which on they are read once


@dataclass(frozen=True)
class Ending:
    """Where an answer ends: with the first of `ids`, or with the token by which its text is over.

    `is_over`: says so of an answer's tokens, and of all that begin with them.
    """

    ids: Collection[int] = ()
    is_over: Callable[[Sequence[int]], bool] | None = None

    def cut(self, tokens: list[int]) -> list[int]:
        """Return tokens up to the end, which is included; all where they have none."""
        place = next((place for place, token in enumerate(tokens) if token in self.ids), len(tokens))
        found = tokens[: place + 1]
        if self.is_over is None or not self.is_over(found):
            return found
        return found[: bisect_left(range(len(found)), True, key=lambda count: self._is_over(found[:count]))]

    def is_reached(self, tokens: list[int]) -> bool:
        """Return whether an answer ends within some tokens."""
        return any(token in self.ids for token in tokens) or self._is_over(tokens)

    def _is_over(self, tokens: list[int]) -> bool:
        return self.is_over is not None and self.is_over(tokens)


def reference_answers(
    reference: FloatReference,
    prompts: Sequence[Sequence[int]],
    count: int,
    ending: Ending,
    guesses: Sequence[Sequence[int]] = (),
    draft: Draft | None = None,
) -> list[list[int]]:
    """Return the likeliest `count` tokens after each prompt, fewer where it ends before, which is included.

    With longrope, a prompt on the short side of its edge must leave room for the answer there: its factors are those
    of prompt and answer together.

    Args:
        reference: whose answers.
        prompts: ids, at least one each.
        count: the most tokens of an answer.
        ending: where an answer ends.
        guesses: what a bundle answers to each prompt; the better, the fewer walks.
        draft: continues sequences by at least one token, as a bundle does. Called where a walk reads all weights.
    """
    every = [_Answer(Words(reference, prompt), count, ending) for prompt in prompts]
    for answer, guess in zip(every, guesses, strict=bool(guesses)):
        answer.expect(guess)
    for group in _groups(reference, [answer for answer in every if not answer.is_finished]):
        _write(reference, group, draft)
    return [answer.tokens for answer in every]


@dataclass
class _Answer:
    """One answer on its way. `guess`: what is thought to follow the known words."""

    words: Words
    count: int
    ending: Ending
    guess: list[int] = field(default_factory=list)
    at_once: int = _FIRST_GUESS  # tokens of a guess that a walk reads

    @property
    def tokens(self) -> list[int]:
        """The known words up to the end, at most `count`."""
        return self.ending.cut(self.words.known[: self.count])

    @property
    def is_finished(self) -> bool:
        found = self.words.known[: self.count]
        return len(found) >= self.count or self.ending.is_reached(found)

    @property
    def so_far(self) -> list[int]:
        """The prompt, and the known words."""
        return self.words.prompt + self.words.known

    @property
    def most_read(self) -> int:
        """The most tokens that are read: all but the last one, after which nothing is asked."""
        return len(self.words.prompt) + self.count - 1

    @property
    def room(self) -> int:
        """Tokens that may be guessed in the next walk, which yields one more."""
        return min(self.at_once, self.count - len(self.words.known) - 1)

    def expect(self, answer: Sequence[int]) -> None:
        """Take an answer to the whole prompt as a guess, where it agrees with the known words."""
        known = self.words.known
        self.guess = list(answer[len(known) :]) if list(answer[: len(known)]) == known else []

    def correct(self, guessed: Sequence[int], likeliest: Sequence[int]) -> int:
        """Add what a walk has found after the known words and each guessed token. Returns how many were right."""
        same = common_start(guessed, likeliest)
        found = list(likeliest[: same + 1])
        self.at_once = min(2 * self.at_once, _LONGEST_GUESS) if same == len(guessed) else _FIRST_GUESS
        self.guess = self.guess[same + 1 :] if self.guess[: same + 1] == found else []
        self.words.add(found)
        return same


def _groups(reference: FloatReference, answers: Sequence[_Answer]) -> Iterator[list[_Answer]]:
    """Yield answers in groups whose keys and values are in memory together."""
    group: list[_Answer] = []
    tokens = 0
    for answer in answers:
        if group and cache_bytes(reference.checkpoint.architecture, tokens + answer.most_read) > CACHE_BYTES:
            yield group
            group, tokens = [], 0
        group.append(answer)
        tokens += answer.most_read
    if group:
        yield group


def _write(reference: FloatReference, answers: Sequence[_Answer], draft: Draft | None) -> None:
    """Finish some answers."""
    sequences = reference.sequences([answer.most_read for answer in answers])
    most = sum(answer.count for answer in answers)
    _read_shared(sequences, answers)
    try:
        while active := {number: one for number, one in enumerate(answers) if not one.is_finished}:
            made = sum(len(one.tokens) if number in active else one.count for number, one in enumerate(answers))
            reference.on_progress(Step("reference", made, most, "tokens"))
            if draft is not None and not sequences.is_resident:
                _draft([one for one in active.values() if not one.guess and one.room > 0], draft)
            guessed = {number: one.guess[: one.room] for number, one in active.items()}
            before = {number: len(one.so_far) for number, one in active.items()}
            new = {n: one.so_far[sequences.length(n) :] + guessed[n] for n, one in active.items()}
            ends = {number: len(guess) + 1 for number, guess in guessed.items()}
            states = sequences.read(new)
            for number, one in active.items():
                if not one.words.known:
                    one.words.keep_state(states[number][-ends[number]])
            for number, likeliest in likeliest_at_ends(reference, states, ends).items():
                same = active[number].correct(guessed[number], likeliest)
                sequences.cut(number, before[number] + same)
    finally:
        for answer in answers:
            answer.words.keep()
    reference.on_progress(Step("reference", most, most, "tokens"))


def _read_shared(sequences: Sequences, answers: Sequence[_Answer]) -> None:
    """Read once what all prompts begin with. Each keeps tokens of its own: after them something is asked."""
    first = answers[0].so_far
    shared = min(min(common_start(first, one.so_far), len(one.so_far) - 1) for one in answers)
    if len(answers) > 1 and shared >= SHARED:
        sequences.read({0: first[:shared]})
        sequences.share(0, range(1, len(answers)))


def _draft(answers: Sequence[_Answer], draft: Draft) -> None:
    if answers:
        drafted = draft([one.so_far for one in answers], [one.room for one in answers])
        for answer, guess in zip(answers, drafted, strict=True):
            answer.guess = list(guess)


def likeliest_at_ends(
    reference: FloatReference, states: Mapping[int, NDArray[np.float32]], ends: Mapping[int, int]
) -> dict[int, list[int]]:
    """Return the likeliest token after each of the last tokens of sequences, by hidden states [T, hidden] of each.

    `ends`: how many last tokens of each.
    """
    needed = {number: rows[len(rows) - ends[number] :] for number, rows in states.items()}
    found = reference.likeliest_after(np.concatenate([*needed.values()]))
    stops = np.cumsum([len(rows) for rows in needed.values()])
    return {number: part.tolist() for number, part in zip(needed, np.split(found, stops[:-1]), strict=True)}


def states_after(reference: FloatReference, prompts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Return the hidden state after each prompt, [hidden]: those that answers to them have left, else from a walk."""
    found = [Words(reference, prompt).state for prompt in prompts]
    missing = [place for place, state in enumerate(found) if state is None]
    for places, rows in batches(reference, [prompts[place] for place in missing]):
        for place, states in zip(places, reference.hidden(rows), strict=True):
            found[missing[place]] = states[len(prompts[missing[place]]) - 1]
    return [state for state in found if state is not None]


def padded(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return sequences in rows [B, T], filled up at the end with zeros: no token sees what comes after it."""
    rows = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, ids in zip(rows, sequences, strict=True):
        row[: len(ids)] = ids
    return rows


def batches(
    reference: FloatReference, sequences: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
    """Yield the places of sequences that may be read together, and their rows, filled up at the end.

    A row's length decides longrope's factors, so that none is filled up past the edge.
    """
    longrope = reference.checkpoint.architecture.longrope
    edge = max(map(len, sequences), default=0) if longrope is None else longrope.original_context
    for is_long in (False, True):
        places = [place for place, ids in enumerate(sequences) if (len(ids) > edge) == is_long]
        if places:
            yield places, padded([sequences[place] for place in places])


def common_start(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the number of elements before the first that differs, or that only one of them has."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (first, second) in pairs if first != second), min(len(one), len(other)))
