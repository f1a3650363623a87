"""A Core ML bundle, run: by Core ML itself on macOS, elsewhere by evaluating its program (`evaluate.py`).

A sequence that passes longrope's edge is read again from its beginning: see `builders/coreml/description.py`, and
`calls.py` for how tokens become calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from builders.coreml.interface import CHUNK_FACT, MAIN
from builders.coreml.package import PACKAGE_NAME
from builders.runtime.coreml.calls import Call, Engine, layout_of, run_calls
from builders.runtime.coreml.evaluate import Evaluator
from builders.runtime.session import End, Session, Tokens, end_in_parts
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError

LOCKSTEP_TOKENS = 2048  # of windows that the evaluator runs together: their states and activations are in memory


class CoremlSession(Session):
    """One sequence in a Core ML program. Implements `builders.runtime.session.Session`."""

    def __init__(
        self, engines: Mapping[str, Engine], *, context_length: int, runtime: str, is_own_runtime: bool
    ) -> None:
        """Open the functions of a package, by name: those that its `Layout` calls."""
        self.runtime = runtime
        self.is_own_runtime = is_own_runtime
        self._engines = dict(engines)
        self._context_length = context_length
        self._layout = layout_of(engines[MAIN].metadata, context_length)
        self._state: Any = None
        self._tokens: list[int] = []  # in the state's cache

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits [T, vocabulary] after each of T tokens, from an empty cache."""
        self._tokens = []
        return self._extended(tokens)

    def score_end(self, tokens: Tokens, first: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of `score` from `first` on, part by part.

        A sequence past longrope's edge is read in one call, except in fixed shapes.
        """
        is_long = self._layout.is_long(len(tokens))
        if is_long and not self._layout.is_fixed:
            yield from super().score_end(tokens, first)
            return
        self._tokens = []
        yield from end_in_parts(lambda part: self._extended(part, is_long=is_long), tokens, first)

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
        return np.asarray(self.score(tokens)[-1])

    def extend(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Continue the sequence by tokens that are read together: logits [vocabulary] after the last one."""
        cached = len(self._tokens)
        if self._layout.is_long(cached + len(tokens)) and not self._layout.is_long(cached):
            return self.prefill(np.asarray([*self._tokens, *tokens], dtype=np.int64))
        return np.asarray(self._extended(tokens)[-1])

    def step(self, token: int) -> NDArray[np.float32]:
        """Go one token further: logits [vocabulary] after it."""
        return self.extend(np.asarray([token], dtype=np.int64))

    def score_each(self, windows: Sequence[Tokens]) -> Iterator[NDArray[np.float32]]:
        """Yield logits [T, vocabulary] of each window; the evaluator runs some windows in lockstep."""
        if not self._is_evaluated():
            yield from super().score_each(windows)
            return
        self._tokens = []
        at_once = max(1, LOCKSTEP_TOKENS // max(map(len, windows), default=1))
        for first in range(0, len(windows), at_once):
            yield from self._scored_together(windows[first : first + at_once])

    def continue_each(
        self, prompts: Sequence[Tokens], count: int, *, stops: Collection[int] = (), known: Sequence[Tokens] = ()
    ) -> Iterator[Tokens]:
        """Yield each prompt's continuation; the evaluator writes them in lockstep, a token of each at a time."""
        longest = max(map(len, prompts), default=0) + count
        if not self._is_evaluated() or self._layout.is_long(longest):
            yield from super().continue_each(prompts, count, stops=stops, known=known)
            return
        self._tokens = []
        states = [self._engines[MAIN].make_state() for _ in prompts]
        cached = [0 for _ in prompts]
        ends = [End(count, stops, known[place] if len(known) else ()) for place in range(len(prompts))]
        found: list[list[int]] = [[] for _ in prompts]
        active, following = list(range(len(prompts))), list(prompts)
        while active:
            sequences = [
                (states[place], self._calls(new, cached[place])) for place, new in zip(active, following, strict=True)
            ]
            likeliest = {place: int(logits[-1].argmax()) for place, logits in run_calls(self._engines, sequences)}
            for number, place in enumerate(active):
                cached[place] += len(following[number])
                found[place].append(likeliest[number])
            active = [place for place in active if not ends[place].is_reached(found[place])]
            following = [np.asarray(found[place][-1:]) for place in active]
        yield from (np.asarray(tokens, np.int64) for tokens in found)

    def close(self) -> None:
        """Free the program, its weights and its cache."""
        self._engines = {}
        self._state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_evaluated(self) -> bool:
        return isinstance(self._engines.get(MAIN), Evaluator)

    def _extended(self, tokens: NDArray[np.int64], *, is_long: bool | None = None) -> NDArray[np.float32]:
        """Read new tokens: logits [T, vocabulary]. `is_long`: as in `_calls`."""
        if not self._engines:
            raise MeasurementError("the Core ML session is closed", fix="open the bundle again")
        calls = self._calls(tokens, len(self._tokens), is_long)
        if not self._tokens:
            self._state = self._engines[MAIN].make_state()
        logits = [found for _, found in run_calls(self._engines, [(self._state, calls)])]
        self._tokens += tokens.tolist()
        return np.concatenate(logits, dtype=np.float32)

    def _scored_together(self, windows: Sequence[Tokens]) -> Iterator[NDArray[np.float32]]:
        """Yield logits [T, vocabulary] of windows that are read in lockstep, each as soon as its turn comes."""
        sequences = [(self._engines[MAIN].make_state(), self._calls(window, 0)) for window in windows]
        parts: list[list[NDArray[np.float16]]] = [[] for _ in windows]
        following = 0
        for place, logits in run_calls(self._engines, sequences):
            parts[place].append(logits)
            while following < len(windows) and sum(map(len, parts[following])) == len(windows[following]):
                yield np.concatenate(parts[following], dtype=np.float32)
                parts[following] = []
                following += 1

    def _calls(self, tokens: Tokens, cached: int, is_long: bool | None = None) -> list[Call]:
        """Return the calls that read new tokens.

        `is_long`: whether longrope's long factors hold; by default if the sequence is past the edge with these tokens.
        """
        if not 1 <= len(tokens) <= self._context_length - cached:
            raise MeasurementError(
                f"{len(tokens)} tokens after {cached}: the bundle takes 1 to {self._context_length} in all",
                fix="give fewer tokens, or build with a longer --context",
            )
        if is_long is None:
            is_long = self._layout.is_long(cached + len(tokens))
        return self._layout.calls(tokens, cached, is_long)


def open_session(bundle: Bundle) -> CoremlSession:
    """Open a Core ML bundle. Raises `MeasurementError` where its package can't be read or run."""
    package = bundle.file(PACKAGE_NAME)
    is_mac = sys.platform == "darwin"
    context_length = bundle.manifest.model.context_length
    open_function: Callable[[Path, str], Engine] = CoremlEngine if is_mac else Evaluator
    engines = {MAIN: open_function(package, MAIN)}
    for function in layout_of(engines[MAIN].metadata, context_length).functions:
        if function not in engines:
            engines[function] = open_function(package, function)
    how = "Core ML" if is_mac else "Core ML program evaluated on the CPU"
    return CoremlSession(
        engines,
        context_length=context_length,
        runtime=f"{how} (coremltools {version('coremltools')})",
        is_own_runtime=is_mac,
    )


class CoremlEngine:
    """A function in Core ML itself, through coremltools: macOS 15 and later.

    A state that one function of a package makes is taken by its others, as ANEMLL's are.
    """

    updates_in_place = True  # calls are made one after the other

    def __init__(self, package: Path, function: str) -> None:
        import coremltools as ct

        try:
            facts = ct.models.MLModel(str(package), skip_model_load=True).user_defined_metadata
            # The Neural Engine does not support flexible lengths; Apple's own decoders with these run on the GPU.
            units = ct.ComputeUnit.CPU_AND_NE if CHUNK_FACT in facts else ct.ComputeUnit.CPU_AND_GPU
            named = None if function == MAIN else function  # packages of one function take no name
            self._model = ct.models.MLModel(str(package), compute_units=units, function_name=named)
        except (RuntimeError, ValueError, OSError) as error:
            raise MeasurementError(
                f"Core ML refuses {package}: {error}",
                fix="check that this is macOS 15 or later, then fetch or build the bundle again",
            ) from error

    @property
    def metadata(self) -> Mapping[str, str]:
        """The package's user-defined metadata."""
        return dict(self._model.user_defined_metadata)

    def make_state(self) -> Any:
        """Return a state with an empty cache."""
        return self._model.make_state()

    def predict_each(
        self, calls: Sequence[tuple[Mapping[str, NDArray[Any]], Any]], *, at_once: int = 1
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Make calls, one after the other. Raises `MeasurementError` where Core ML fails."""
        del at_once
        for inputs, state in calls:
            yield self._predict(inputs, state)

    def _predict(self, inputs: Mapping[str, NDArray[Any]], state: Any) -> Mapping[str, NDArray[Any]]:
        try:
            return dict(self._model.predict(dict(inputs), state))
        except RuntimeError as error:
            raise MeasurementError(
                f"Core ML could not run the program: {error}",
                fix="free memory and run it again, or build with a shorter --context",
            ) from error
