"""A Core ML bundle, run: by Core ML itself on macOS, elsewhere by evaluating its program (`evaluate.py`).

A sequence that passes longrope's edge is read again from its beginning, in one call: see
`builders/coreml/description.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from builders.coreml.description import EDGE_FACT
from builders.coreml.package import PACKAGE_NAME
from builders.coreml.program import CAUSAL_MASK, INPUT_IDS, LOGITS
from builders.runtime.coreml.evaluate import Evaluator, State
from builders.runtime.session import End, Session, Tokens, end_in_parts
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError


class Engine(Protocol):
    """What runs a program: Core ML or the evaluator. Each has its own type of state."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The package's user-defined metadata."""
        ...

    def make_state(self) -> Any:
        """Return a state with an empty cache."""
        ...

    def predict(self, inputs: Mapping[str, NDArray[Any]], state: Any) -> Mapping[str, NDArray[Any]]:
        """Call the program: return its outputs by name, and change the state."""
        ...


LOCKSTEP_TOKENS = 2048  # of windows that the evaluator runs together: their states and activations are in memory


@dataclass(frozen=True)
class _Sequence:
    """One of the evaluator's sequences: its state, and the tokens in its cache."""

    state: State
    tokens: list[int]


class CoremlSession(Session):
    """One sequence in a Core ML program. Implements `builders.runtime.session.Session`."""

    def __init__(self, engine: Engine, *, context_length: int, runtime: str, is_own_runtime: bool) -> None:
        self.runtime = runtime
        self.is_own_runtime = is_own_runtime
        self._engine: Engine | None = engine
        self._context_length = context_length
        edge = engine.metadata.get(EDGE_FACT)
        self._edge = None if edge is None else int(edge)
        self._state: Any = None
        self._tokens: list[int] = []  # in the state's cache

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits [T, vocabulary] after each of T tokens, from an empty cache."""
        self._tokens = []
        return self._extended(tokens)

    def score_end(self, tokens: Tokens, first: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of `score` from `first` on, part by part; of a sequence past longrope's edge from one call."""
        if self._edge is not None and len(tokens) > self._edge:
            yield from super().score_end(tokens, first)
            return
        self._tokens = []
        yield from end_in_parts(self._extended, tokens, first)

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
        return np.asarray(self.score(tokens)[-1])

    def extend(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Continue the sequence by tokens that are read together: logits [vocabulary] after the last one."""
        cached = len(self._tokens)
        if self._edge is not None and cached <= self._edge < cached + len(tokens):
            return self.prefill(np.asarray([*self._tokens, *tokens], dtype=np.int64))
        return np.asarray(self._extended(tokens)[-1])

    def step(self, token: int) -> NDArray[np.float32]:
        """Go one token further: logits [vocabulary] after it."""
        return self.extend(np.asarray([token], dtype=np.int64))

    def score_each(self, windows: Sequence[Tokens]) -> Iterator[NDArray[np.float32]]:
        """Yield logits [T, vocabulary] of each window; the evaluator runs some windows in lockstep."""
        if not isinstance(self._engine, Evaluator):
            yield from super().score_each(windows)
            return
        self._tokens = []
        at_once = max(1, LOCKSTEP_TOKENS // max(map(len, windows), default=1))
        for first in range(0, len(windows), at_once):
            group = [_Sequence(self._engine.make_state(), []) for _ in windows[first : first + at_once]]
            for outputs in self._lockstep(group, windows[first : first + at_once], at_once=1):
                yield outputs.astype(np.float32)

    def continue_each(
        self, prompts: Sequence[Tokens], count: int, *, stops: Collection[int] = (), known: Sequence[Tokens] = ()
    ) -> Iterator[Tokens]:
        """Yield each prompt's continuation; the evaluator writes them in lockstep, a token of each at a time."""
        longest = max(map(len, prompts), default=0) + count
        if not isinstance(self._engine, Evaluator) or (self._edge is not None and longest > self._edge):
            yield from super().continue_each(prompts, count, stops=stops, known=known)
            return
        self._tokens = []
        sequences = [_Sequence(self._engine.make_state(), []) for _ in prompts]
        ends = [End(count, stops, known[place] if len(known) else ()) for place in range(len(prompts))]
        found: list[list[int]] = [[] for _ in prompts]
        active, following = list(range(len(prompts))), list(prompts)
        while active:
            single = max(map(len, following)) == 1  # logits of whole prompts are large
            moved = self._lockstep(
                [sequences[place] for place in active], following, at_once=len(active) if single else 1
            )
            for place, logits in zip(active, moved, strict=True):
                found[place].append(int(logits[-1].argmax()))
            active = [place for place in active if not ends[place].is_reached(found[place])]
            following = [np.asarray(found[place][-1:]) for place in active]
        yield from (np.asarray(tokens, np.int64) for tokens in found)

    def close(self) -> None:
        """Free the program, its weights and its cache."""
        self._engine = None
        self._state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _extended(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._engine is None:
            raise MeasurementError("the Core ML session is closed", fix="open the bundle again")
        cached = len(self._tokens)
        self._require_room(cached, tokens)
        if cached == 0:
            self._state = self._engine.make_state()
        outputs = self._engine.predict(call_inputs(tokens, cached), self._state)
        self._tokens += tokens.tolist()
        return outputs[LOGITS][0].astype(np.float32)

    def _lockstep(
        self, sequences: Sequence[_Sequence], tokens: Sequence[Tokens], *, at_once: int
    ) -> Iterator[NDArray[np.float16]]:
        """Read new tokens in each of several sequences, and yield their logits [T, vocabulary]."""
        assert isinstance(self._engine, Evaluator)
        calls = []
        for sequence, new in zip(sequences, tokens, strict=True):
            self._require_room(len(sequence.tokens), new)
            calls.append((call_inputs(new, len(sequence.tokens)), sequence.state))
            sequence.tokens.extend(new.tolist())
        for outputs in self._engine.predict_each(calls, at_once=at_once):
            yield outputs[LOGITS][0]

    def _require_room(self, cached: int, tokens: Tokens) -> None:
        if not 1 <= len(tokens) <= self._context_length - cached:
            raise MeasurementError(
                f"{len(tokens)} tokens after {cached}: the bundle takes 1 to {self._context_length} in all",
                fix="give fewer tokens, or build with a longer --context",
            )


def call_inputs(tokens: NDArray[np.int64], cached: int) -> dict[str, NDArray[Any]]:
    """Return the inputs of a call with new tokens [q] after `cached` ones: the mask's width sets their positions."""
    return {
        INPUT_IDS: tokens.astype(np.int32)[None],
        CAUSAL_MASK: np.zeros((1, 1, 1, cached + len(tokens)), np.float16),
    }


def open_session(bundle: Bundle) -> CoremlSession:
    """Open a Core ML bundle. Raises `MeasurementError` where its package can't be read or run."""
    package = bundle.file(PACKAGE_NAME)
    is_mac = sys.platform == "darwin"
    engine: Engine = CoremlEngine(str(package)) if is_mac else Evaluator(package)
    how = "Core ML" if is_mac else "Core ML program evaluated on the CPU"
    return CoremlSession(
        engine,
        context_length=bundle.manifest.model.context_length,
        runtime=f"{how} (coremltools {version('coremltools')})",
        is_own_runtime=is_mac,
    )


class CoremlEngine:
    """Core ML itself, through coremltools: macOS 15 and later."""

    def __init__(self, package: str) -> None:
        import coremltools as ct

        try:
            # The Neural Engine does not support flexible lengths; Apple's own decoders run on the GPU.
            self._model = ct.models.MLModel(package, compute_units=ct.ComputeUnit.CPU_AND_GPU)
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

    def predict(self, inputs: Mapping[str, NDArray[Any]], state: Any) -> Mapping[str, NDArray[Any]]:
        """Call the program. Raises `MeasurementError` where Core ML fails."""
        try:
            return dict(self._model.predict(dict(inputs), state))
        except RuntimeError as error:
            raise MeasurementError(
                f"Core ML could not run the program: {error}",
                fix="free memory and run it again, or build with a shorter --context",
            ) from error
