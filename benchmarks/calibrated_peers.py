"""Compares calibrated bundles with what other tools make of the same model, at equal bytes.

    python -m benchmarks.calibrated_peers [gguf] [onnx] [--llama-imatrix TOOL] [--model …] [--calibration light]
        [--budget] [--out FILE]

gguf    Q4_K_M of a padded model, so that K-quants can store it (devtools/padded.py): llama.cpp's quantizer, without and
        with the importance matrix of its own tool. llama-imatrix is built from llama.cpp's sources (`cmake --build
        build --target llama-imatrix`), and reads what the last of the levels asked for reads: 16,384 tokens for `full`
onnx    onnxruntime-genai's builder with `k_quant_mixed`: another search of scales, and 8 bits for some layers and the
        head; it does not calibrate

`--budget`: for each of their artifacts phipack's with a budget of at most its bytes, too, calibrated as the last of the
levels. All are run by the same session of their format, and measured on OpenWebText, which nothing was tuned on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.peers import genai, llama_cpp
from benchmarks.quantization import MODELS, Figures, Measuring
from builders.checkpoint import open_checkpoint
from builders.quantization.calibration.text import calibration_windows
from builders.tokenizer import tokenizer_of
from devtools import real_model
from devtools.accuracy import weight_bytes, with_weights
from devtools.packages import default_cache
from phipack.tables import table
from registry.bundle.folder import Bundle
from targets.budget import Budget
from targets.calibration import Calibration, CalibrationSettings
from targets.formatting import share
from targets.recipes import Recipe, recipe_named

TEXT = "OpenWebText"
MODEL_OF = {"gguf": "dithered-padded", "onnx": "dithered"}
GENAI = ("algo_config=k_quant_mixed",)


@dataclass(frozen=True)
class Row:
    """One artifact: its recipe, its maker, the bytes of its weights, and its figures."""

    recipe: str
    maker: str
    weight_bytes: int
    figures: Figures


class Comparing:
    """A model, the reference's results, and a scratch folder."""

    def __init__(self, model: str, tokens: int, scratch: Path, levels: list[Calibration], *, budget: bool) -> None:
        self.checkpoint = open_checkpoint(MODELS[model]())
        self.scratch = scratch
        self.levels = levels
        self.budget = budget
        self.cache = default_cache()
        self.measuring = Measuring(self.checkpoint, {TEXT: real_model.ensure().openwebtext}, tokens)

    def ours(self, recipe: Recipe, calibration: Calibration) -> Row:
        """Build with phipack and measure."""
        bundle, _ = self.measuring.built(recipe, calibration, self.scratch)
        budget = "" if recipe.budget is None else ", budget"
        return self.row(recipe.name, f"phipack, {calibration}{budget}", bundle)

    def row(self, recipe: str, maker: str, bundle: Bundle) -> Row:
        """Measure a bundle."""
        found = Row(recipe, maker, weight_bytes(bundle.path), self.measuring.figures(bundle)[TEXT])
        print(report([found]), flush=True)
        return found

    def theirs(self, recipe: Recipe, maker: str, like: Bundle, files: list[Path]) -> Iterator[Row]:
        """Measure another tool's files, and if asked for phipack's bundle with as many bytes of weights."""
        bundle = with_weights(self.scratch / maker.replace(" ", "-"), like, files)
        yield self.row(recipe.name, maker, bundle)
        if self.budget:
            others = sum(file.bytes for file in like.manifest.files) - weight_bytes(like.path)
            size = Budget("bytes", weight_bytes(bundle.path) + others)
            yield self.ours(replace(recipe, budget=size), self.levels[-1])

    def calibration_text(self) -> Path:
        """Write what the last level reads as a text, with its special tokens."""
        path, tokenizer = self.scratch / "calibration.txt", tokenizer_of(self.checkpoint)
        ids = calibration_windows(self.checkpoint, CalibrationSettings(), self.levels[-1]).reshape(-1).tolist()
        special = {number: token for token, number in tokenizer.vocabulary().items()}
        special = {number: special[number] for number in tokenizer.added_tokens()}
        runs = groupby(ids, lambda number: special.get(number, ""))
        path.write_text(
            "".join(token * len([*run]) if token else tokenizer.decode([*run]) for token, run in runs), "utf-8"
        )
        return path


def gguf_rows(comparing: Comparing, tool: Path | None) -> Iterator[Row]:
    """Compare with llama.cpp's quantizer: blind, and with its importance matrix."""
    recipe = recipe_named("gguf-q4_k_m")
    half = comparing.scratch / "llama-f16.gguf"
    llama_cpp.convert(comparing.checkpoint.path, half, comparing.cache)
    like, _ = comparing.measuring.built(recipe, "none", comparing.scratch)
    if tool is not None:
        made = comparing.scratch / "imatrix.gguf"
        llama_cpp.importance(tool, half, comparing.calibration_text(), made)
        peer = comparing.scratch / "llama-imatrix.gguf"
        llama_cpp.quantize(half, peer, "q4_k_m", imatrix=made)
        yield from comparing.theirs(recipe, "llama.cpp, with imatrix", like, [peer])
    for level in comparing.levels:
        yield comparing.ours(recipe, level)
    blind = comparing.scratch / "llama-blind.gguf"
    llama_cpp.quantize(half, blind, "q4_k_m")
    yield next(comparing.theirs(recipe, "llama.cpp", like, [blind]))


def onnx_rows(comparing: Comparing, _tool: Path | None) -> Iterator[Row]:
    """Compare with onnxruntime-genai's builder."""
    recipe = recipe_named("onnx-int4")
    like, _ = comparing.measuring.built(recipe, "none", comparing.scratch)
    yield comparing.row(recipe.name, "phipack, none", like)
    made = comparing.scratch / "genai"
    genai.build(comparing.checkpoint.path, made, "int4", comparing.cache, GENAI)
    files = [made / "model.onnx", made / "model.onnx.data"]
    yield from comparing.theirs(recipe, "genai, k_quant mixed", like, files)
    for level in comparing.levels:
        yield comparing.ours(recipe, level)


ROWS = {"gguf": gguf_rows, "onnx": onnx_rows}


def report(rows: list[Row]) -> str:
    """Return the rows as a table."""
    columns = ("recipe", "made by", "weights", "KL mean", "same top", "perplexity ratio")
    cells = [
        (
            row.recipe,
            row.maker,
            f"{row.weight_bytes:,}",
            f"{row.figures[0]:.4f} ± {row.figures[1]:.4f}",
            share(row.figures[2]),
            f"{row.figures[3]:.3f}",
        )
        for row in rows
    ]
    return table(columns, cells)


def main(arguments: list[str]) -> None:
    """Run the comparisons and print the table. Write it to `--out`, if set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", default=["gguf", "onnx"])
    parser.add_argument("--model", choices=MODELS, help="[default: dithered-padded for gguf, dithered for onnx]")
    parser.add_argument("--llama-imatrix", type=Path, metavar="TOOL")
    parser.add_argument("--calibration", action="append", choices=("light", "full"), help="[default: both]")
    parser.add_argument("--budget", action="store_true", help="phipack's at the bytes of the others' artifacts, too")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--scratch", type=Path, help="build in this folder and keep the artifacts")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    place: AbstractContextManager[Any] = (
        tempfile.TemporaryDirectory() if asked.scratch is None else nullcontext(asked.scratch)
    )
    rows, levels = list[Row](), asked.calibration or ["light", "full"]
    with place as folder:
        for name in asked.formats:
            model = asked.model or MODEL_OF[name]
            comparing = Comparing(model, asked.tokens, Path(folder), levels, budget=asked.budget)
            rows += ROWS[name](comparing, asked.llama_imatrix)
    print(report(rows))
    if asked.out is not None:
        asked.out.write_text(f"```\n{report(rows)}\n```\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
