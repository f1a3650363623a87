"""Compares every 4-bit recipe with the same model made by the format's own tool, on the same tokens, against float32.

    python -m benchmarks.four_bit [--tokens 4096] [--out docs/benchmarks/four-bit.md]

The real 135M model (`devtools/real_model.py`). Sizes are of the weights' files alone, so that tokenizers don't count.
What a format's own tool makes is run in the same runtime, by the same session, as ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import unittest.mock
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import coremltools_trace, genai, llama_cpp
from builders.build import build
from builders.runtime.coreml.evaluate import Evaluator
from devtools.accuracy import WINDOW, Bench, Row
from phipack.tables import table
from targets.architecture import Architecture
from targets.formatting import share
from targets.recipes import Recipe, recipe_named
from targets.storage import onnx as onnx_storage

StorageOf = Callable[[str, Architecture, Recipe], onnx_storage.Storage]


def gguf_rows(bench: Bench) -> list[Row]:
    """Compare phipack with llama.cpp's converter and quantizer."""
    half = bench.scratch / "llama-f16.gguf"
    llama_cpp.convert(bench.checkpoint.path, half, bench.cache)
    rows = []
    for kind in ("q4_0", "q4_k_m"):
        ours = bench.ours(f"gguf-{kind}")
        peer = bench.scratch / f"llama-{kind}.gguf"
        llama_cpp.quantize(half, peer, kind)
        theirs = bench.theirs(f"llama-{kind}", ours, [peer])
        rows += [bench.row(f"gguf {kind}", "phipack", ours), bench.row(f"gguf {kind}", "llama.cpp", theirs)]
    return rows


def onnx_rows(bench: Bench) -> list[Row]:
    """Compare phipack with onnxruntime-genai's builder."""
    ours = bench.ours("onnx-int4")
    made = bench.scratch / "genai"
    genai.build(bench.checkpoint.path, made, "int4", bench.cache)
    theirs = bench.theirs("genai-int4", ours, [made / "model.onnx", made / "model.onnx.data"])
    with (
        unittest.mock.patch("builders.onnx.weights.storage_of", _head_in_four_bits),
        unittest.mock.patch("targets.storage.onnx.storage_of", _head_in_four_bits),
    ):
        smaller = build(
            bench.checkpoint, recipe_named("onnx-int4"), bench.scratch / "small-head", context_length=WINDOW
        )
    return [
        bench.row("onnx int4", "phipack", ours),
        bench.row("onnx int4", "phipack, head in 4 bits", smaller),
        bench.row("onnx int4", "onnxruntime-genai", theirs),
    ]


def _head_in_four_bits(
    name: str, architecture: Architecture, recipe: Recipe, *, chosen: StorageOf = onnx_storage.storage_of
) -> onnx_storage.Storage:
    """Store as onnx-int4 does, but head and embedding in 4 bits, as the other tool does: smaller than its artifact."""
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return onnx_storage.FOUR_BITS
    return chosen(name, architecture, recipe)


def coreml_rows(bench: Bench) -> list[Row]:
    """Compare phipack with coremltools' compression of a torch trace. The same evaluator runs both."""
    ours = bench.ours("coreml-int4")
    traced, peer = bench.scratch / "trace.mlpackage", bench.scratch / "trace-int4.mlpackage"
    coremltools_trace.convert(bench.checkpoint.path, traced, length=WINDOW)
    coremltools_trace.compress_int4(traced, peer)
    evaluator = Evaluator(peer)

    def score(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        outputs = evaluator.predict({"input_ids": tokens.astype(np.int32)[None]}, {})
        return next(iter(outputs.values()))[0].astype(np.float32)

    their_bytes = sum(path.stat().st_size for path in peer.rglob("*") if path.is_file())
    return [
        bench.row("coreml int4", "phipack", ours),
        Row("coreml int4", "coremltools", their_bytes, bench.compare(score)),
    ]


def report(rows: list[Row]) -> str:
    """Return the rows as a table."""
    columns = ("format", "made by", "weights", "KL mean", "KL p99", "same top", "perplexity ratio")
    cells = [
        (
            row.format,
            row.maker,
            f"{row.weight_bytes:,}",
            row.figures["kl_mean"],
            row.figures["kl_p99"],
            share(row.figures["same_top_share"]),
            row.figures["perplexity_ratio"],
        )
        for row in rows
    ]
    return table(columns, cells)


def main(arguments: list[str]) -> None:
    """Run all comparisons and print the table. Write it to `--out`, if set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scratch", type=Path, help="build in this folder and keep the artifacts")
    asked = parser.parse_args(arguments)
    place: AbstractContextManager[Any] = (
        tempfile.TemporaryDirectory() if asked.scratch is None else nullcontext(asked.scratch)
    )
    with place as folder:
        bench = Bench(Path(folder), asked.tokens)
        rows = [*gguf_rows(bench), *onnx_rows(bench), *coreml_rows(bench)]
    text = report(rows)
    print(text)
    if asked.out is not None:
        text_read = f"{asked.tokens} tokens of OpenWebText in windows of {WINDOW}"
        head = f"SmolLM2-135M as Phi3ForCausalLM, {text_read}, compared with float32."
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(f"{head}\n\n```\n{text}\n```\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
