"""A bundle run by onnxruntime on this machine's CPU, without onnxruntime-genai, which returns only some logits.

Keys and values live in one buffer a layer that is both past and present, as onnxruntime-genai keeps them: attention
appends in place. The buffers hold the whole context; the system allocates their pages when they are first written.

A sequence that passes longrope's edge is read again from its beginning, since the keys in the cache were rotated with
the short factors. transformers 5's generate does the same, and so does onnxruntime-genai where the edge is 4,096
tokens. That of transformers 4.57 also reads it again, but lets each token see those after it: its answers there differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from builders.onnx import EDGE_FACT, GRAPH_NAME
from builders.runtime.onnx_places import OnnxPlaces
from builders.runtime.refusal import check_fix
from builders.runtime.session import Session, Tokens, end_in_parts
from builders.runtime.together import Together, places_for
from builders.threads import thread_count
from registry.bundle.folder import Bundle
from registry.bundle.manifest import ModelEntry
from targets.errors import MeasurementError

_ELEMENTS = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,  # two values of 4 bits; no recipe builds it (devtools/kv_caches.py)
}
# With sparse attention: rows of several lengths that are run together get other numbers than alone (measured).
_ONE_BY_ONE = ("Phi3SmallForCausalLM",)


class OnnxSession(Session):
    """Implements `builders.runtime.session.Session`. `open_session` makes one."""

    runtime = f"onnxruntime {version('onnxruntime')} (CPU)"
    is_own_runtime = True

    def __init__(self, inference: Any, model: ModelEntry) -> None:
        self._inference = inference
        self._context_length = model.context_length
        edge = inference.get_modelmeta().custom_metadata_map.get(EDGE_FACT)
        self._edge = None if edge is None else int(edge)
        self._caches = _empty_caches(inference, model)
        self._model = model
        self._together: Together | None = None
        self._tokens: list[int] = []

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits [T, vocabulary] after each of T tokens, from an empty cache."""
        self._tokens = []
        return self._run(tokens)

    def score_end(self, tokens: Tokens, first: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of `score` from `first` on, part by part; of a sequence past longrope's edge from one call."""
        if self._edge is not None and len(tokens) > self._edge:
            yield from super().score_end(tokens, first)
            return
        self._tokens = []
        yield from end_in_parts(self._run, tokens, first)

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
        return self.score(tokens)[-1].copy()

    def extend(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Continue the sequence by tokens that are read together: logits [vocabulary] after the last one."""
        cached = len(self._tokens)
        if self._edge is not None and cached <= self._edge < cached + len(tokens):
            return self.prefill(np.asarray([*self._tokens, *tokens], dtype=np.int64))
        return self._run(tokens)[-1].copy()

    def step(self, token: int) -> NDArray[np.float32]:
        """Go one token further: logits [vocabulary] after it."""
        return self.extend(np.asarray([token], dtype=np.int64))

    def continue_each(
        self, prompts: Sequence[Tokens], count: int, *, stops: Collection[int] = (), known: Sequence[Tokens] = ()
    ) -> Iterator[Tokens]:
        """Yield each prompt's continuation: all are written together, a row each."""
        longest = max(map(len, prompts), default=0) + count
        most = self._context_length if self._edge is None else self._edge  # past it, sequences are read again
        is_alone = len(prompts) < 2 or min(map(len, prompts)) < 1 or self._model.architecture in _ONE_BY_ONE
        if is_alone or longest > most:
            yield from super().continue_each(prompts, count, stops=stops, known=known)
            return
        rows = _cache_rows(self._inference, self._model)
        places, room = places_for(prompts, count, _token_bytes(rows))
        held = self._together
        if held is None or held.places.count < places or held.places.room < room:
            self._together = None
            self._together = Together(OnnxPlaces(self._call_rows, places, room, rows))
        assert self._together is not None
        yield from self._together.continue_each(prompts, count, stops, known)

    def close(self) -> None:
        """Free the runtime and the cache."""
        self._inference = None
        self._caches = {}
        self._together = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        total = len(self._tokens) + len(tokens)
        if not len(tokens) or total > self._context_length:
            raise MeasurementError(
                f"a sequence of {total} tokens; the bundle takes 1 to {self._context_length}",
                fix="give fewer tokens, or build with a longer --context",
            )
        logits = self._call(tokens[None], np.ones((1, total), np.int64), self._caches)[0]
        self._tokens.extend(int(token) for token in tokens)
        return logits

    def _call(self, ids: NDArray[np.int64], mask: NDArray[np.int64], caches: Mapping[str, Any]) -> NDArray[np.float32]:
        """Run new tokens [B, q] in caches that the call appends to: logits [B, q, vocabulary]. `mask`: [B, total]."""
        binding = self._inference.io_binding()
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids, dtype=np.int64))
        binding.bind_cpu_input("attention_mask", mask)
        for name, cache in caches.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", cache)
            binding.bind_ortvalue_output(f"present.{name}", cache)
        binding.bind_output("logits")
        try:
            self._inference.run_with_iobinding(binding)
        except _run_errors() as error:
            raise MeasurementError(
                f"onnxruntime fails in a sequence of {mask.shape[1]} tokens: {error}",
                fix="free memory and run it again; if it fails again, build the bundle again",
            ) from error
        logits = binding.get_outputs()[-1].numpy()  # the others are the caches, which must not be copied
        return np.asarray(logits, dtype=np.float32)

    def _call_rows(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], caches: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float32]:
        """Run as `_call`, in rows of caches that are arrays."""
        import onnxruntime as ort

        return self._call(ids, mask, {name: ort.OrtValue.ortvalue_from_numpy(rows) for name, rows in caches.items()})


def open_session(bundle: Bundle) -> OnnxSession:
    """Load a bundle's graph. Raises `MeasurementError` where onnxruntime refuses it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = thread_count()
    try:
        inference = ort.InferenceSession(bundle.file(GRAPH_NAME), options, providers=["CPUExecutionProvider"])
    except _load_errors() as error:
        raise MeasurementError(
            f"{bundle.path}: onnxruntime can't load it: {error}",
            fix=check_fix(bundle.path),
        ) from error
    return OnnxSession(inference, bundle.manifest.model)


def _load_errors() -> tuple[type[Exception], ...]:
    """Return all errors that onnxruntime raises for a graph or its data: they have no common base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoModel",
        "NoSuchFile",
        "NotFound",
    )
    return (*(getattr(state, name) for name in (*names, "NotImplemented", "RuntimeException")), RuntimeError)


def _run_errors() -> tuple[type[Exception], ...]:
    """Return the errors that onnxruntime raises while a graph runs."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.EPFail, state.Fail, state.InvalidArgument, state.RuntimeException, RuntimeError)


def _empty_caches(inference: Any, model: ModelEntry) -> dict[str, Any]:
    import onnxruntime as ort

    return {
        name: ort.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, model.context_length, size), dtype))
        for name, ((heads, size), dtype) in _cache_rows(inference, model).items()
    }


def _cache_rows(inference: Any, model: ModelEntry) -> dict[str, tuple[tuple[int, int], Any]]:
    """Return heads and elements of a head, and the dtype, of each cache. The graph need not declare their numbers."""
    prefix, rows = "past_key_values.", dict[str, tuple[tuple[int, int], Any]]()
    for value in inference.get_inputs():
        if value.name.startswith(prefix):
            dtype = _ELEMENTS[value.type]
            size = model.head_dim // 2 if dtype is np.uint8 else model.head_dim
            rows[value.name.removeprefix(prefix)] = ((model.kv_heads, size), dtype)
    return rows


def _token_bytes(rows: Mapping[str, tuple[tuple[int, int], Any]]) -> int:
    """Return the bytes of a token in all caches: keys and values are float16, float32 or whole numbers."""
    return sum(heads * size * np.dtype(dtype).itemsize for (heads, size), dtype in rows.values())
