"""New tokens as calls of a package's functions, as `builders/coreml/description.py` describes them.

The package's own metadata says whether its shapes are fixed, so that packages that were built before are called as they
were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from builders.coreml.interface import (
    CAUSAL_MASK,
    CHUNK_FACT,
    EDGE_FACT,
    INPUT_IDS,
    LOGITS,
    LONG_FACTORS,
    MAIN,
    POSITION,
    PROMPT,
)
from builders.runtime.session import Tokens

PADDING_ID = 0  # of the ids that fill up a chunk; any would do


@dataclass(frozen=True)
class Call:
    """A call of a function. It reads `count` tokens; where its shape is fixed, it may be filled up behind them."""

    function: str
    inputs: Mapping[str, NDArray[Any]]
    count: int


class Engine(Protocol):
    """What runs a function of a program: Core ML or the evaluator. Each has its own type of state."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The package's user-defined metadata."""
        ...

    @property
    def updates_in_place(self) -> bool:
        """Whether `predict_each` may take several calls of one sequence, each with more tokens of it."""
        ...

    def make_state(self) -> Any:
        """Return a state with an empty cache, for all functions of the package."""
        ...

    def predict_each(
        self, calls: Sequence[tuple[Mapping[str, NDArray[Any]], Any]], *, at_once: int = 1
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Make calls, each with its inputs and its state: yield the outputs of each by name, and change the states."""
        ...


@dataclass(frozen=True)
class Layout:
    """How a package is called. `calls(tokens, cached, is_long)` returns the calls that read new tokens [q].

    `edge`: the longest sequence that takes longrope's short factors; None where there is no edge. `is_fixed`: whether
    shapes are fixed, so that the caller says which factors hold (`is_long`) and reads in chunks; otherwise the call
    that passes the edge takes the whole sequence, and the program knows.
    """

    functions: tuple[str, ...]
    edge: int | None
    is_fixed: bool
    calls: Callable[[Tokens, int, bool], list[Call]]

    def is_long(self, length: int) -> bool:
        """Return whether a sequence of that length takes the long factors."""
        return self.edge is not None and length > self.edge


def layout_of(metadata: Mapping[str, str], context_length: int) -> Layout:
    """Return how a package with this metadata is called."""
    edge = int(metadata[EDGE_FACT]) if EDGE_FACT in metadata else None
    if CHUNK_FACT not in metadata:
        return Layout((MAIN,), edge, is_fixed=False, calls=_whole_call)
    chunk = int(metadata[CHUNK_FACT])
    calls = partial(_fixed_calls, chunk, context_length, edge is not None)
    return Layout((MAIN, PROMPT), edge, is_fixed=True, calls=calls)


def call_inputs(tokens: NDArray[np.int64], cached: int) -> dict[str, NDArray[Any]]:
    """Return the inputs of a call with new tokens [q] after `cached` ones: the mask's width sets their positions."""
    return {
        INPUT_IDS: tokens.astype(np.int32)[None],
        CAUSAL_MASK: np.zeros((1, 1, 1, cached + len(tokens)), np.float16),
    }


def _whole_call(tokens: Tokens, cached: int, _is_long: bool) -> list[Call]:
    return [Call(MAIN, call_inputs(tokens, cached), len(tokens))]


def _fixed_calls(
    chunk: int, context_length: int, has_factors: bool, tokens: Tokens, cached: int, is_long: bool
) -> list[Call]:
    """Return calls in chunks, the last one filled up; of one token where no chunk is needed, or none has room."""
    found = []
    place = 0
    while place < len(tokens):
        position = cached + place
        is_chunk = len(tokens) - place > 1 and position + chunk <= context_length
        length = chunk if is_chunk else 1
        new = tokens[place : place + length]
        inputs = {
            INPUT_IDS: np.full((1, length), PADDING_ID, np.int32),
            POSITION: np.array([position], np.int32),
            **({LONG_FACTORS: np.array([is_long], np.int32)} if has_factors else {}),
        }
        inputs[INPUT_IDS][0, : len(new)] = new
        found.append(Call(PROMPT if is_chunk else MAIN, inputs, len(new)))
        place += len(new)
    return found


def run_calls(
    engines: Mapping[str, Engine], sequences: Sequence[tuple[Any, Sequence[Call]]]
) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """Make the calls of each sequence, given with its state: yield its place and logits [tokens of a call, vocabulary].

    The logits of a sequence come in order, those of several in any. Calls of one sequence run in lockstep where the
    engine updates states in place: what later ones write is hidden from earlier ones by the program's mask.
    """
    waiting = [list(calls) for _, calls in sequences]
    while any(waiting):
        function = next(calls[0].function for calls in waiting if calls)
        most = None if engines[function].updates_in_place else 1
        taken = []
        for place, calls in enumerate(waiting):
            following = _of_function(function, calls)[:most]
            del calls[: len(following)]
            taken += [(place, call) for call in following]
        # Logits of whole prompts are large.
        at_once = len(taken) if all(call.count == 1 for _, call in taken) else 1
        made = [(call.inputs, sequences[place][0]) for place, call in taken]
        for (place, call), outputs in zip(taken, engines[function].predict_each(made, at_once=at_once), strict=True):
            yield place, outputs[LOGITS][0, : call.count]


def _of_function(function: str, calls: Sequence[Call]) -> list[Call]:
    """Return the calls of a function that come first."""
    return list(takewhile(lambda call: call.function == function, calls))
