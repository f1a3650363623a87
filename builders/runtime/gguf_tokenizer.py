"""llama.cpp's own tokenizer over a GGUF file's vocabulary: the ids of an app that tokenizes with the runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from builders.gguf.convert import MODEL_NAME
from builders.runtime.gguf_session import silence
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError


@contextmanager
def runtime_tokenizer(bundle: Bundle) -> Iterator[Callable[[str], list[int]]]:
    """Open the vocabulary as a function text → ids: special tokens are recognised, none are added. No weight is read.

    Raises:
        MeasurementError: llama.cpp refuses the vocabulary.
    """
    import llama_cpp

    library: Any = llama_cpp
    silence(library)
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    model = library.llama_model_load_from_file(str(bundle.file(MODEL_NAME)).encode(), parameters)
    if not model:
        raise MeasurementError(
            f"{bundle.path}: llama.cpp can't read the vocabulary",
            fix=f"run phipack inspect --verify {bundle.path}; if it is damaged, fetch or build it again",
        )
    vocabulary = library.llama_model_get_vocab(model)

    def encode(text: str) -> list[int]:
        raw = text.encode()
        ids = (library.llama_token * (len(raw) + 8))()
        count = library.llama_tokenize(vocabulary, raw, len(raw), ids, len(ids), False, True)
        return list(ids[: max(0, count)])

    try:
        yield encode
    finally:
        library.llama_model_free(model)
