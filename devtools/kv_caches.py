"""Measures what types of KV cache cost the real model in accuracy, for the tables in docs/quantization.md.

    python -m devtools.kv_caches [gguf] [onnx] [--lengths 512 2048 4096] [--types f16 q8_0 q4_0]

Two stretches of 512 tokens of OpenWebText are compared at the end of sequences of each length: the same stretches, with
more and more before them. Weights are float16 (`gguf-f16`, `onnx-fp16`), so that the cache alone differs; `onnx-int4`
(light) has an int8 cache, too. Bundles are built for the sequence's length, which int8 scales depend on.

Recent versions of llama.cpp rotate keys and values (Hadamard) before they quantize them where the width of a head is a
multiple of 64, as here; with LLAMA_ATTN_ROT_DISABLE they don't, which shows what models with other heads get, such as
Phi-3-mini with 96. phipack builds no int4 cache for ONNX: here the graph of the int8 one is changed, with scales that
reach as far.

It takes minutes for each length (23 of one processor for GGUF at 4,096 tokens), and 3 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.build import build
from builders.build_cache import BuildCache
from builders.calibrate import calibrate, with_special_tokens
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.onnx.attention import K_SCALE
from builders.onnx.cache_scales import HIGHEST_CODE
from builders.quantization.calibration.statistics import CalibrationStatistics
from builders.reference import FloatReference
from builders.runtime.sessions import open_for_whole_context
from builders.tokenizer import tokenizer_of
from builders.validation.compare import Comparison
from builders.validation.text import read_text, windows_of
from devtools import real_model
from devtools.accuracy import with_weights
from devtools.packages import default_cache
from phipack.tables import table
from registry.bundle.folder import Bundle
from targets.calibration import CalibrationSettings
from targets.formatting import share
from targets.kv_cache import with_kv_cache
from targets.recipes import recipe_named

LENGTHS = (512, 2048, 4096)
GGUF_TYPES = ("f16", "q8_0", "q4_0")
FLOAT_WEIGHTS, INT4_WEIGHTS = "onnx-fp16", "onnx-int4"
SEQUENCES = 2
END = 512  # tokens of each sequence that are compared
_SWITCH = "LLAMA_ATTN_ROT_DISABLE"
_HIGHEST_INT4 = 7


@dataclass(frozen=True)
class Row:
    """A bundle's figures: its recipe, its cache, and how the ends of sequences compare with the reference's.

    `processor_seconds`: of all threads, to open the bundle, to run the sequences and to compare their ends.
    """

    length: int
    recipe: str
    cache: str
    figures: dict[str, float]
    processor_seconds: float


@dataclass(frozen=True)
class Stretches:
    """Token ids [sequences, length], and the reference's logits [tokens, vocabulary] at the end of each."""

    windows: NDArray[np.int64]
    expected: list[NDArray[np.float32]]

    @classmethod
    def of(cls, reference: FloatReference, windows: NDArray[np.int64]) -> Stretches:
        """Run the reference."""
        return cls(windows, [reference.logits(states[-END:]) for states in reference.hidden(windows)])

    @property
    def length(self) -> int:
        """Tokens of each sequence."""
        return self.windows.shape[1]

    def row(self, recipe: str, cache: str, bundle: Bundle) -> Row:
        """Run a bundle."""
        comparison, first, started = Comparison(), max(self.length - END, 0), time.process_time()
        with open_for_whole_context(bundle) as session:
            for tokens, expected in zip(self.windows, self.expected, strict=True):
                found = np.concatenate([part.copy() for part in session.score_end(tokens, first)])
                comparison.add(expected, found, tokens[first:])
        return Row(self.length, recipe, cache, comparison.figures(), time.process_time() - started)


def gguf_rows(
    checkpoint: Checkpoint, stretches: Stretches, scratch: Path, types: Sequence[str] = GGUF_TYPES
) -> Iterator[Row]:
    """Yield the rows of llama.cpp's types, with and without rotation."""
    for name in types:
        recipe = with_kv_cache(recipe_named("gguf-f16"), name)
        bundle = build(checkpoint, recipe, scratch / name, context_length=stretches.length)
        yield stretches.row(recipe.name, name, bundle)
        if name != "f16":
            with _no_rotation():
                yield stretches.row(recipe.name, f"{name}, not rotated", bundle)


def onnx_rows(
    checkpoint: Checkpoint, stretches: Stretches, scratch: Path, learned: CalibrationStatistics
) -> Iterator[Row]:
    """Yield the rows of onnxruntime's types."""
    for name, cache in ((FLOAT_WEIGHTS, ""), (FLOAT_WEIGHTS, "int8"), (INT4_WEIGHTS, ""), (INT4_WEIGHTS, "int8")):
        bundle = build(
            checkpoint,
            replace(recipe_named(name), kv_cache=cache),
            scratch / f"{name}-{cache}",
            context_length=stretches.length,
            statistics=learned if cache or name == INT4_WEIGHTS else None,
        )
        yield stretches.row(name, cache or "float", bundle)
        if (name, cache) == (FLOAT_WEIGHTS, "int8"):
            yield stretches.row(name, "int4", with_int4_cache(bundle, scratch / "int4"))


def with_int4_cache(bundle: Bundle, folder: Path) -> Bundle:
    """Write a copy of a bundle with an int8 cache that has an int4 one: two values in a byte, each in -8 to 7."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor
    from onnx.numpy_helper import from_array, to_array

    model = onnx.load(bundle.file("model.onnx"), load_external_data=False)
    graph, scales = model.graph, set[str]()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "kv_cache_bit_width":
                attribute.i = 4
                scales.update(node.input[K_SCALE : K_SCALE + 2])
    for tensor in graph.initializer:
        if tensor.name in scales:
            load_external_data_for_tensor(tensor, str(bundle.path))
            wider = to_array(tensor) * np.float32(HIGHEST_CODE / _HIGHEST_INT4)
            tensor.CopyFrom(from_array(wider, tensor.name))
    for value in (*graph.input, *graph.output):
        if value.name.startswith(("past_key_values.", "present.")):
            _pack(value.type.tensor_type, onnx.TensorProto.UINT8)
    changed = folder.with_name("model.onnx")
    onnx.save(model, changed)
    return with_weights(folder, bundle, [changed, bundle.file("model.onnx.data")])


def _pack(kind: Any, element_type: int) -> None:
    """Change the type of a cache [batch, heads, past, head size] to one with two values in an element."""
    kind.elem_type = element_type
    kind.shape.dim[3].dim_value //= 2


@contextmanager
def _no_rotation() -> Iterator[None]:
    os.environ[_SWITCH] = "1"
    try:
        yield
    finally:
        del os.environ[_SWITCH]


def report(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    cells = [
        (
            f"{row.length:,}",
            row.recipe,
            row.cache,
            f"{row.figures['kl_mean']:.5f} ± {row.figures['kl_standard_error']:.5f}",
            share(row.figures["same_top_share"]),
            f"{row.figures['perplexity_ratio']:.4f}",
            f"{row.processor_seconds:.0f}",
        )
        for row in rows
    ]
    return table(("tokens", "recipe", "cache", "KL mean", "same top", "perplexity ratio", "processor s"), cells)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=["gguf", "onnx"], help="[default: both]")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of the sequences")
    parser.add_argument("--types", choices=GGUF_TYPES, nargs="+", default=GGUF_TYPES, help="of llama.cpp's caches")
    asked = parser.parse_args()
    model, rows = real_model.ensure(), list[Row]()
    checkpoint = open_checkpoint(model.checkpoint)
    reference = FloatReference(checkpoint, default_cache() / "reference")
    whole = windows_of(
        tokenizer_of(checkpoint), read_text(model.openwebtext), count=SEQUENCES, length=max(*LENGTHS, *asked.lengths)
    )
    for length in asked.lengths:
        stretches = Stretches.of(reference, whole[:, -length:])
        with tempfile.TemporaryDirectory() as scratch:
            for row in _rows(asked, checkpoint, stretches, Path(scratch)):
                print(report([row]), flush=True)
                rows.append(row)
    print(report(rows))


def _rows(asked: argparse.Namespace, checkpoint: Checkpoint, stretches: Stretches, scratch: Path) -> Iterator[Row]:
    if "gguf" in asked.formats:
        yield from gguf_rows(checkpoint, stretches, scratch, asked.types)
    if "onnx" in asked.formats:
        settings, cache = CalibrationSettings(), BuildCache(default_cache() / "quantization")
        learned = with_special_tokens(calibrate(checkpoint, "light", settings, cache), checkpoint, settings, cache)
        yield from onnx_rows(checkpoint, stretches, scratch, learned)


if __name__ == "__main__":
    main()
