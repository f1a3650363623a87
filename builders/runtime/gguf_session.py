"""A bundle opened in llama.cpp, through llama-cpp-python's low-level API."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from builders.gguf.convert import MODEL_NAME
from builders.runtime.gguf_batch import BATCH, GgufBatch
from builders.runtime.gguf_log import forget_errors, said, silence
from builders.runtime.gguf_places import GgufPlaces
from builders.runtime.refusal import check_fix
from builders.runtime.session import Session, Tokens, parts_from
from builders.runtime.together import Together, places_for
from builders.threads import thread_count
from registry.bundle.folder import Bundle
from registry.bundle.manifest import ExactContext
from targets.errors import MeasurementError
from targets.kv_cache import CACHE_TYPES
from targets.progress import Notice, Progress, silent


class GgufSession(Session):
    """One sequence in llama.cpp, on all cores: float16 KV cache, or the manifest's type with flash attention.

    With quantized weights llama.cpp rounds activations to 8 bits, with different code for a batch and for one token:
    `score` and `step` differ by more than float rounding (mean KL .001 for Q8_0 to .01 for Q4_K_M on a real model of
    135 M weights), and are equally near to the same weights in float32.
    """

    is_own_runtime = True

    def __init__(self, bundle: Bundle, context_length: int | None = None, on_progress: Progress = silent) -> None:
        """Open it for sequences of `context_length` tokens; by default with the contexts of the manifest.

        `on_progress` gets a `Notice` each time another context is opened.

        Raises:
            MeasurementError: llama.cpp refuses the file, or the manifest describes another one.
        """
        import llama_cpp

        self.runtime = f"llama.cpp (llama-cpp-python {version('llama-cpp-python')})"
        self._llama: Any = llama_cpp
        model = bundle.manifest.model
        self._vocabulary_size = model.vocabulary_size
        self._bytes_per_token = 4 * model.layers * model.kv_heads * model.head_dim  # keys and values in float16
        self._kv_cache = bundle.manifest.recipe.kv_cache
        self._on_progress = on_progress
        self._contexts = [*model.exact_contexts] if context_length is None else []
        longest = context_length or model.context_length
        if not self._contexts or self._contexts[-1].last < longest:
            self._contexts.append(ExactContext(open_with=longest, first=1, last=longest))
        self._opened = self._contexts[0]
        self._tokens: list[int] | None = None  # in the cache; None where there is no sequence to continue
        self._model: Any = None
        self._context: Any = None
        self._together: Together | None = None  # in place of the context for one sequence: one of them is in memory
        # Up to this many tokens a shorter context has the same factors of longrope.
        self._shortened = self._contexts[0].last if self._contexts[0].first == 1 else 0
        if context_length is not None and model.exact_contexts:
            self._shortened = 0
        silence(llama_cpp)
        llama_cpp.llama_backend_init()
        self._batch: GgufBatch | None = GgufBatch(llama_cpp, self._vocabulary_size)
        self._path = bundle.file(MODEL_NAME)
        self._check_fix = check_fix(bundle.path)
        try:
            self._load()
            self._open(self._contexts[0])
        except MeasurementError:
            self.close()
            raise

    def _load(self) -> None:
        llama_cpp, path = self._llama, self._path
        forget_errors()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise MeasurementError(f"{path}: llama.cpp refuses it: {said() or 'no reason given'}", fix=self._check_fix)
        found = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        if found != self._vocabulary_size:
            raise MeasurementError(
                f"{path}: {found} tokens, the manifest says {self._vocabulary_size}", fix=self._check_fix
            )

    def _parameters(self) -> Any:
        llama_cpp = self._llama
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_threads = parameters.n_threads_batch = thread_count()
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if self._kv_cache:
            parameters.type_k = parameters.type_v = self._cache_type()
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        return parameters

    def _open(self, context: ExactContext) -> None:
        self._free_contexts()
        parameters = self._parameters()
        parameters.n_ctx = context.open_with
        self._context, self._opened = self._llama.llama_init_from_model(self._model, parameters), context
        if not self._context:
            raise MeasurementError(
                f"{self._path}: llama.cpp can't open a context of {context.open_with} tokens: {said()}",
                fix="free memory, or build with a shorter --context",
            )

    def _cache_type(self) -> int:
        """Return ggml's number of the manifest's type of KV cache."""
        if self._kv_cache not in CACHE_TYPES["gguf"]:
            raise MeasurementError(
                f"{self._path}: its manifest asks for a KV cache in {self._kv_cache}, which this phipack does not know",
                fix="update phipack, or build the bundle again",
            )
        number: int = getattr(self._llama, f"GGML_TYPE_{self._kv_cache.upper()}")
        return number

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits [T, vocabulary] after each of T tokens, from an empty cache."""
        self._start(tokens)
        logits = np.empty((len(tokens), self._vocabulary_size), dtype=np.float32)
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            logits[start : start + len(part)] = self._decode(part, every=True)
        self._tokens = None
        return logits

    def score_end(self, tokens: Tokens, first: int) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of `score` from `first` on, part by part."""
        self._start(tokens)
        parts = parts_from(first, len(tokens))
        for start, stop in parts_from(0, parts[0][0]):
            self._decode(tokens[start:stop], every=False)
        for start, stop in parts:
            yield self._decode(tokens[start:stop], every=True)[max(0, first - start) :]
        self._tokens = None

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
        self._start(tokens)
        return self._last_of(tokens)

    def extend(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Continue the sequence: logits [vocabulary] after its last token. One that outgrows its context is read again.

        Tokens are read together, in batches of at most 512.
        """
        if not len(tokens):
            raise MeasurementError("a sequence can't be continued by no tokens", fix="give at least one token")
        if self._tokens is not None and self._context_for(len(self._tokens) + len(tokens)) != self._opened:
            return self.prefill(np.asarray([*self._tokens, *tokens], dtype=np.int64))
        return self._last_of(tokens)

    def step(self, token: int) -> NDArray[np.float32]:
        """Go one token further: logits [vocabulary] after it. A sequence that outgrows its context is read again."""
        return self.extend(np.asarray([token], dtype=np.int64))

    def continue_each(
        self, prompts: Sequence[Tokens], count: int, *, stops: Collection[int] = (), known: Sequence[Tokens] = ()
    ) -> Iterator[Tokens]:
        """Yield each prompt's continuation: all are written together, with the rounding of a batch."""
        longest = max(map(len, prompts), default=0) + count
        is_alone = not prompts or (len(prompts) < 2 and self._together is None)
        if is_alone or longest > self._shortened or min(map(len, prompts)) < 1:
            yield from super().continue_each(prompts, count, stops=stops, known=known)
            return
        self._require_open()
        places, room = places_for(prompts, count, self._bytes_per_token)
        held = self._together
        if held is None or held.places.count < places or held.places.room < room:
            self._free_contexts()
            self._together = Together(GgufPlaces(self._llama, self._model, self._parameters(), places, room))
        assert self._together is not None
        yield from self._together.continue_each(prompts, count, stops, known)

    def close(self) -> None:
        """Free model and context."""
        self._free_contexts()
        if self._model:
            self._llama.llama_model_free(self._model)
        if self._batch is not None:
            self._batch.close()
        self._model = self._batch = None

    def _free_contexts(self) -> None:
        if self._context:
            self._llama.llama_free(self._context)
        if self._together is not None:
            self._together.places.close()
        self._context = self._together = self._tokens = None

    def _require_open(self) -> None:
        if not self._model:
            raise MeasurementError("the session is closed", fix="open the bundle again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, tokens: NDArray[np.int64]) -> None:
        """Empty the cache, after opening the context that is right for a sequence of so many tokens."""
        self._require_open()
        if not len(tokens):
            raise MeasurementError("a sequence of no tokens has no logits", fix="give at least one token")
        context = self._context_for(len(tokens))
        if context != self._opened:
            self._on_progress(
                Notice(
                    f"for {len(tokens)} tokens llama.cpp is opened again, with a context of {context.open_with}, by "
                    "which it chooses longrope's factors; it reads them from the start"
                )
            )
        if context != self._opened or not self._context:
            self._open(context)
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        self._tokens = []

    def _context_for(self, length: int) -> ExactContext:
        """Return the first context that holds so many tokens, or the longest."""
        return next((context for context in self._contexts if length <= context.last), self._contexts[-1])

    def _last_of(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        *whole, last = range(0, len(tokens), BATCH)
        for start in whole:
            self._decode(tokens[start : start + BATCH], every=False)
        return self._decode(tokens[last:], every=False)[0]

    def _decode(self, tokens: NDArray[np.int64], *, every: bool) -> NDArray[np.float32]:
        """Run up to a batch of tokens. Returns logits of every one [T, vocabulary], or of the last [1, vocabulary]."""
        if self._tokens is None:
            raise MeasurementError("there is no sequence to continue", fix="call prefill first")
        if len(self._tokens) + len(tokens) > self._opened.last:
            raise MeasurementError(
                f"{len(self._tokens) + len(tokens)} tokens don't fit in the bundle's context of {self._opened.last}",
                fix="give fewer tokens, or build with a longer --context",
            )
        length, last = len(self._tokens), len(tokens) - 1
        rows = [(token, length + at, 0, every or at == last) for at, token in enumerate(tokens.tolist())]
        assert self._batch is not None
        logits = self._batch.decode(self._context, rows)
        self._tokens.extend(tokens.tolist())
        return np.array(logits)


def open_session(bundle: Bundle, context_length: int | None = None, on_progress: Progress = silent) -> GgufSession:
    """Open a GGUF bundle, by default with the contexts of its manifest.

    With longrope llama.cpp chooses the factors by the context, so a sequence that outgrows one is read again in the
    next, which a `Notice` says.

    Raises:
        MeasurementError: llama.cpp refuses the bundle.
    """
    return GgufSession(bundle, context_length, on_progress)
