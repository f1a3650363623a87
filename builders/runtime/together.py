"""Prompts continued greedily together, a token of each at a time: a runtime reads its weights once for all of them.

A runtime has a number of places, each with a KV cache of its own. What a place has read stays there until another
prompt needs it: a prompt that goes on from one that was continued before is read from where the two part. A bundle that
drafts what another model corrects asks for little else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from builders.reference import common_start
from builders.runtime.session import End, Tokens

MOST_PLACES = 32
CACHE_BYTES = 2 << 30  # of the KV caches of all places
_ROOMS = 256  # tokens of a place are a multiple of it


class Places(Protocol):
    """What a runtime does for several sequences. Logits are those after the last token: [vocabulary]."""

    count: int  # of places
    room: int  # tokens of each

    def read(self, place: int, tokens: Tokens, kept: int) -> NDArray[np.float32]:
        """Read a sequence from token `kept` on into a place that has the tokens before it."""
        ...

    def step(self, tokens: Mapping[int, int], lengths: Mapping[int, int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Go one token further in some places, after so many tokens: yield each place with its logits."""
        ...

    def close(self) -> None:
        """Free the caches."""
        ...


@dataclass
class _Held:
    """What a place has read. `prompt`: how many of the tokens were a prompt."""

    tokens: list[int] = field(default_factory=list)
    prompt: int = 0

    def kept(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of a prompt need not be read: none, unless it goes on from this one."""
        if not 0 < self.prompt < len(prompt) or self.tokens[: self.prompt] != list(prompt[: self.prompt]):
            return 0
        return min(common_start(self.tokens, prompt), len(prompt) - 1)


class Together:
    """Continues prompts in a runtime's places."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._held = [_Held() for _ in range(places.count)]

    def continue_each(
        self, prompts: Sequence[Tokens], count: int, stops: Collection[int], known: Sequence[Tokens]
    ) -> Iterator[Tokens]:
        """Yield continuations as `Session.continue_each`."""
        for first in range(0, len(prompts), self.places.count):
            group = prompts[first : first + self.places.count]
            ends = [End(count, stops, known[first + at] if len(known) else ()) for at in range(len(group))]
            yield from self._continued(group, ends)

    def _continued(self, prompts: Sequence[Tokens], ends: Sequence[End]) -> list[Tokens]:
        chosen = self._choose([prompt.tolist() for prompt in prompts])
        found: dict[int, list[int]] = {}
        for prompt, (place, kept) in zip(prompts, chosen, strict=True):
            self._held[place] = _Held()  # in case that reading fails
            found[place] = [int(self.places.read(place, prompt, kept).argmax())]
            self._held[place] = _Held(prompt.tolist(), len(prompt))
        end_of = {place: end for (place, _), end in zip(chosen, ends, strict=True)}
        active = [place for place in found if not end_of[place].is_reached(found[place])]
        while active:
            last = {place: found[place][-1] for place in active}
            lengths = {place: len(self._held[place].tokens) for place in active}
            for place, logits in self.places.step(last, lengths):
                found[place].append(int(logits.argmax()))
                self._held[place].tokens.append(last[place])
            active = [place for place in active if not end_of[place].is_reached(found[place])]
        return [np.asarray(found[place], np.int64) for place, _ in chosen]

    def _choose(self, prompts: Sequence[list[int]]) -> list[tuple[int, int]]:
        """Return a place for each prompt, and how many of its tokens are there."""
        chosen: dict[int, tuple[int, int]] = {}
        free = set(range(self.places.count))
        for number, prompt in enumerate(prompts):
            kept, place = max(((self._held[place].kept(prompt), -place) for place in free), default=(0, 0))
            if kept:
                chosen[number] = (-place, kept)
                free.remove(-place)
        rest = iter(sorted(free, key=lambda place: (len(self._held[place].tokens), place)))
        return [chosen[number] if number in chosen else (next(rest), 0) for number in range(len(prompts))]


def places_for(prompts: Sequence[Tokens], count: int, bytes_per_token: int) -> tuple[int, int]:
    """Return how many places prompts and their continuations need, within `CACHE_BYTES`, and the tokens of each."""
    longest = max(map(len, prompts), default=1) + count
    room = -(-longest // _ROOMS) * _ROOMS
    return max(1, min(MOST_PLACES, len(prompts), CACHE_BYTES // (room * bytes_per_token))), room
