"""One opener a format: a bundle in, a running session out."""

from __future__ import annotations

from collections.abc import Callable

from builders.runtime.session import Session
from registry.bundle.folder import Bundle
from targets.progress import Progress, silent
from targets.recipes import Format


def _open_gguf(bundle: Bundle, on_progress: Progress) -> Session:
    from builders.runtime.gguf_session import open_session as open_gguf

    return open_gguf(bundle, on_progress=on_progress)


def _open_onnx(bundle: Bundle, _on_progress: Progress) -> Session:
    from builders.runtime.onnx_session import open_session as open_onnx

    return open_onnx(bundle)


def _open_coreml(bundle: Bundle, _on_progress: Progress) -> Session:
    from builders.runtime.coreml.session import open_session as open_coreml

    return open_coreml(bundle)


OPENERS: dict[Format, Callable[[Bundle, Progress], Session]] = {
    "gguf": _open_gguf,
    "onnx": _open_onnx,
    "coreml": _open_coreml,
}


def open_session(bundle: Bundle, on_progress: Progress = silent) -> Session:
    """Open a bundle in the runtime of its format. Raises `MeasurementError` where the runtime refuses it.

    `on_progress` gets a `Notice` where the runtime is opened again for a longer sequence (llama.cpp with longrope).
    """
    return OPENERS[bundle.manifest.recipe.format](bundle, on_progress)


def open_for_whole_context(bundle: Bundle) -> Session:
    """Open a bundle with room for its longest sequence from the start, as memory is measured.

    `open_session` may open a GGUF bundle with less: where a shorter context is the exact one for short sequences.
    """
    if bundle.manifest.recipe.format != "gguf":
        return open_session(bundle)
    from builders.runtime.gguf_session import open_session as open_gguf

    return open_gguf(bundle, bundle.manifest.model.context_length)
