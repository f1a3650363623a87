"""The text engines of a bundle: its own files, and what its runtime reads by itself.

swift-transformers, which apps with Core ML use, runs only on Apple's systems: there the bundle's files are all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from builders.runtime.bundled_text import BundledText
from builders.runtime.text_engine import TemplateEngine, TextEngine
from builders.tokenizer import read_bundled_tokenizer
from registry.bundle.folder import Bundle


@contextmanager
def open_text_engines(bundle: Bundle) -> Iterator[list[TextEngine]]:
    """Open the bundle's own files, and its runtime's engine where it has one that runs here.

    Raises:
        MeasurementError: the runtime can't read the bundle's tokenizer.
    """
    own = BundledText(bundle, read_bundled_tokenizer(bundle.path))
    with open_runtime_text(bundle) as runtime:
        yield [own] if runtime is None else [own, runtime]


def template_engines(engines: Sequence[TextEngine]) -> list[TemplateEngine]:
    """Return what renders conversations: the engines, and llama.cpp's C library after its own vocabulary."""
    found: list[TemplateEngine] = [*engines]
    for engine in engines:
        if engine.name == "llama.cpp":
            from builders.runtime.gguf_tokenizer import GgufText, KnownTemplate

            assert isinstance(engine, GgufText)
            found.append(KnownTemplate(engine))
    return found


@contextmanager
def open_runtime_text(bundle: Bundle) -> Iterator[TextEngine | None]:
    """Open the runtime's own engine; None where it has none that runs here. Raises as `open_text_engines`."""
    match bundle.manifest.recipe.format:
        case "gguf":
            from builders.runtime.gguf_tokenizer import open_gguf_text

            with open_gguf_text(bundle) as gguf:
                yield gguf
        case "onnx":
            from builders.runtime.onnx_text import open_onnx_text

            with open_onnx_text(bundle) as onnx:
                yield onnx
        case "coreml":
            yield None
