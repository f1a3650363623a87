"""How far bundles continue prompts as the reference does, in at most one walk over the layers a bundle.

Up to the first difference a bundle's continuation is the reference's own, and past it nothing counts. So the reference
reads what a bundle wrote, and knows its own words up to the first that differs, that one included. They are kept
(`words.py`): the next bundle's continuation is read only where it agrees with all of them and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from builders.reference.answers import common_start, likeliest_at_ends
from builders.reference.logits import FloatReference
from builders.reference.words import Words
from targets.progress import Step

Tokens = NDArray[np.int64]


class Continuations:
    """What the reference writes after prompts [P, T], `count` tokens each, as far as it is known."""

    def __init__(self, reference: FloatReference, prompts: NDArray[np.int64], count: int) -> None:
        self._reference = reference
        self._words = [Words(reference, prompt) for prompt in prompts.tolist()]
        self._count = count

    @property
    def known(self) -> list[Tokens]:
        """The reference's words after each prompt, as far as they are known."""
        return [np.asarray(words.known[: self._count], np.int64) for words in self._words]

    def same_tokens(self, found: Sequence[Tokens]) -> list[int]:
        """Return how many tokens of each continuation come before its first difference from the reference's own.

        `found`: of each prompt, `count` tokens, or up to the first that differs from the known ones.
        """
        open_ends = {
            number: ids.tolist()
            for number, (ids, known) in enumerate(zip(found, self.known, strict=True))
            if len(known) < len(ids) and np.array_equal(ids[: len(known)], known)
        }
        if open_ends:
            self._read(open_ends)
        return [common_start(ids.tolist(), known.tolist()) for ids, known in zip(found, self.known, strict=True)]

    def _read(self, found: dict[int, list[int]]) -> None:
        """Walk over the layers with continuations of some prompts, and keep what is known then."""
        numbers, report = [*found], self._reference.on_progress
        report(Step("reference", 0, len(numbers), "prompts"))
        read = {place: [*self._words[number].prompt, *found[number][:-1]] for place, number in enumerate(numbers)}
        sequences = self._reference.sequences([len(ids) for ids in read.values()])
        ends = {place: len(found[number]) for place, number in enumerate(numbers)}
        for place, own in likeliest_at_ends(self._reference, sequences.read(read), ends).items():
            words, ids = self._words[numbers[place]], found[numbers[place]]
            words.add(own[len(words.known) : common_start(ids, own) + 1])
            words.keep()
        report(Step("reference", len(numbers), len(numbers), "prompts"))
