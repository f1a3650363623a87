"""Every 4-bit recipe beside the same model made by the format's own tool, on the same tokens, against float32.

    python -m benchmarks.four_bit [--tokens 4096] [--out docs/benchmarks/four-bit.md]

The real 135M model (`benchmarks/real_model.py`). Sizes are of the weights' files alone, so that tokenizers don't count.
What a format's own tool makes is run in the same runtime, by the same session, as ours.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import unittest.mock
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import real_model
from benchmarks.packages import default_cache
from benchmarks.peers import coremltools_trace, genai, llama_cpp
from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference
from builders.runtime.coreml.evaluate import Evaluator
from builders.runtime.sessions import open_session
from builders.tokenizer import load_tokenizer
from builders.validation.compare import Comparison
from builders.validation.text import read_text, windows_of
from phipack.output import share, table
from registry.bundle.folder import Bundle, file_entries, open_bundle, seal
from targets.architecture import Architecture
from targets.recipes import Recipe, recipe_named
from targets.storage import onnx as onnx_storage

WINDOW = 512
StorageOf = Callable[[str, Architecture, Recipe], onnx_storage.Storage]
Score = Callable[[NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """One artifact: who made it, what, the bytes of its weights' file, and how it compares."""

    format: str
    maker: str
    weight_bytes: int
    figures: dict[str, float]


class Bench:
    """The reference's side of all comparisons, and a scratch folder."""

    def __init__(self, scratch: Path, tokens: int) -> None:
        self.model = real_model.ensure()
        self.cache = default_cache()
        self.scratch = scratch
        self.checkpoint: Checkpoint = open_checkpoint(self.model.checkpoint)
        tokenizer = load_tokenizer(self.checkpoint.path)
        text = read_text(self.model.openwebtext)
        self.windows = windows_of(tokenizer, text, count=tokens // WINDOW, length=WINDOW)
        self.reference = FloatReference(self.checkpoint, self.cache / "reference")
        self.hidden = self.reference.hidden(self.windows)

    def compare(self, score: Score) -> dict[str, float]:
        """Run all windows through a scorer and compare."""
        comparison = Comparison()
        for states, tokens in zip(self.hidden, self.windows, strict=True):
            comparison.add(self.reference.logits(states), score(tokens), tokens)
        return comparison.figures()

    def ours(self, recipe: str) -> Bundle:
        """Build a bundle with phipack."""
        return build(self.checkpoint, recipe_named(recipe), self.scratch / recipe, context_length=WINDOW)

    def theirs(self, name: str, like: Bundle, files: list[Path]) -> Bundle:
        """Put another tool's weights in a bundle of the same kind as one of ours, so that the same session runs it."""
        folder = self.scratch / name
        shutil.copytree(like.path, folder, ignore=shutil.ignore_patterns("model.*", "manifest.json"))
        for file in files:
            target = folder / ("model.gguf" if file.suffix == ".gguf" else file.name)
            shutil.copytree(file, target) if file.is_dir() else shutil.copyfile(file, target)
        seal(folder, like.manifest.model_copy(update={"files": file_entries(folder)}))
        return open_bundle(folder)

    def row(self, format_: str, maker: str, bundle: Bundle) -> Row:
        """Measure a bundle through its format's session."""
        with open_session(bundle) as session:
            return Row(format_, maker, weight_bytes(bundle.path), self.compare(session.score))


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights' files of a bundle: all that is called model.*."""
    found = [path for path in folder.rglob("*") if path.is_file() and "model." in path.relative_to(folder).as_posix()]
    return sum(path.stat().st_size for path in found if path.name != "tokenizer.model")


def gguf_rows(bench: Bench) -> list[Row]:
    """Ours beside llama.cpp's converter and quantizer."""
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
    """Ours beside onnxruntime-genai's builder."""
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
    """Store as onnx-int4 does, but for head and embedding: below the size of the peer's, with 4 bits there too."""
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return onnx_storage.FOUR_BITS
    return chosen(name, architecture, recipe)


def coreml_rows(bench: Bench) -> list[Row]:
    """Ours beside coremltools' compression of a torch trace, both evaluated by the same evaluator."""
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
    """Lay the rows out as a table."""
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
    """Run all, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scratch", type=Path, help="keep what is built here")
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
        head = f"SmolLM2-135M as Phi3ForCausalLM, {asked.tokens} tokens of OpenWebText by {WINDOW}, against float32."
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(f"{head}\n\n```\n{text}\n```\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
