"""Compares Q4_K_M, calibrated, with llama.cpp's quantizer and the importance matrix of its own tool, at equal bytes.

    python -m benchmarks.calibrated_peers [--llama-imatrix TOOL] [--model …] [--calibration light] [--out FILE]

The model is padded, so that K-quants can store it (devtools/padded.py). llama-imatrix is built from llama.cpp's sources
(`cmake --build build --target llama-imatrix`), and reads what the last of the levels asked for reads: 16,384 tokens for
`full`. All are run by llama.cpp, and measured on OpenWebText, which nothing was tuned on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.peers import llama_cpp
from benchmarks.quantization import MODELS, Figures, Measuring
from builders.checkpoint import open_checkpoint
from builders.quantization.calibration.text import calibration_windows
from builders.tokenizer import tokenizer_of
from devtools import real_model
from devtools.accuracy import weight_bytes, with_weights
from devtools.packages import default_cache
from phipack.tables import table
from registry.bundle.folder import Bundle
from targets.calibration import Calibration, CalibrationSettings
from targets.formatting import share
from targets.recipes import Recipe, recipe_named

TEXT = "OpenWebText"


@dataclass(frozen=True)
class Row:
    """One artifact: its recipe, its maker, the bytes of its weights, and its figures."""

    recipe: str
    maker: str
    weight_bytes: int
    figures: Figures


class Comparing:
    """A model, the reference's results, and a scratch folder."""

    def __init__(self, model: str, tokens: int, scratch: Path) -> None:
        self.checkpoint = open_checkpoint(MODELS[model]())
        self.scratch = scratch
        self.cache = default_cache()
        self.measuring = Measuring(self.checkpoint, {TEXT: real_model.ensure().openwebtext}, tokens)

    def ours(self, recipe: Recipe, calibration: Calibration) -> Row:
        """Build with phipack and measure."""
        bundle, _ = self.measuring.built(recipe, calibration, self.scratch)
        return self.row(recipe.name, f"phipack, {calibration}", bundle)

    def row(self, recipe: str, maker: str, bundle: Bundle) -> Row:
        """Measure a bundle."""
        found = Row(recipe, maker, weight_bytes(bundle.path), self.measuring.figures(bundle)[TEXT])
        print(report([found]), flush=True)
        return found

    def theirs(self, recipe: Recipe, maker: str, like: Bundle, files: list[Path]) -> Row:
        """Measure another tool's files."""
        return self.row(recipe.name, maker, with_weights(self.scratch / maker.replace(" ", "-"), like, files))

    def calibration_text(self, level: Calibration) -> Path:
        """Write what a level reads as a text, with its special tokens."""
        path, tokenizer = self.scratch / "calibration.txt", tokenizer_of(self.checkpoint)
        ids = calibration_windows(self.checkpoint, CalibrationSettings(), level).reshape(-1).tolist()
        special = {number: token for token, number in tokenizer.vocabulary().items()}
        special = {number: special[number] for number in tokenizer.added_tokens()}
        runs = groupby(ids, lambda number: special.get(number, ""))
        path.write_text(
            "".join(token * len([*run]) if token else tokenizer.decode([*run]) for token, run in runs), "utf-8"
        )
        return path


def gguf_rows(comparing: Comparing, tool: Path | None, levels: list[Calibration]) -> Iterator[Row]:
    """Compare with llama.cpp's quantizer: blind, and with its importance matrix."""
    recipe = recipe_named("gguf-q4_k_m")
    half = comparing.scratch / "llama-f16.gguf"
    llama_cpp.convert(comparing.checkpoint.path, half, comparing.cache)
    like, _ = comparing.measuring.built(recipe, "none", comparing.scratch)
    if tool is not None:
        made = comparing.scratch / "imatrix.gguf"
        llama_cpp.importance(tool, half, comparing.calibration_text(levels[-1]), made)
        peer = comparing.scratch / "llama-imatrix.gguf"
        llama_cpp.quantize(half, peer, "q4_k_m", imatrix=made)
        yield comparing.theirs(recipe, "llama.cpp, with imatrix", like, [peer])
    for level in levels:
        yield comparing.ours(recipe, level)
    blind = comparing.scratch / "llama-blind.gguf"
    llama_cpp.quantize(half, blind, "q4_k_m")
    yield comparing.theirs(recipe, "llama.cpp", like, [blind])


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
    parser.add_argument("--model", choices=MODELS, default="dithered-padded")
    parser.add_argument("--llama-imatrix", type=Path, metavar="TOOL")
    parser.add_argument("--calibration", action="append", choices=("light", "full"), help="[default: both]")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--scratch", type=Path, help="build in this folder and keep the artifacts")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    place: AbstractContextManager[Any] = (
        tempfile.TemporaryDirectory() if asked.scratch is None else nullcontext(asked.scratch)
    )
    with place as folder:
        comparing = Comparing(asked.model, asked.tokens, Path(folder))
        rows = [*gguf_rows(comparing, asked.llama_imatrix, asked.calibration or ["light", "full"])]
    print(report(rows))
    if asked.out is not None:
        asked.out.write_text(f"```\n{report(rows)}\n```\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
