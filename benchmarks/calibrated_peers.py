"""Compares calibrated bundles with what other tools make of the same model, at equal bytes.

    python -m benchmarks.calibrated_peers [gguf] [onnx] [olive] [--llama-imatrix TOOL] [--model …]
        [--calibration light] [--budget] [--out FILE]

gguf    Q4_K_M of a padded model, so that K-quants can store it (devtools/padded.py): llama.cpp's quantizer, without and
        with the importance matrix of its own tool. llama-imatrix is built from llama.cpp's sources (`cmake --build
        build --target llama-imatrix`), and reads what the last of the levels asked for reads: 16,384 tokens for `full`
onnx    onnxruntime-genai's builder with `k_quant_mixed`: another search of scales, and 8 bits for some layers and the
        head; it does not calibrate
olive   Olive's GPTQ, which reads the tokens that the last of the levels reads, in ONNX by genai's builder. Its file has
        the embedding in float32 next to the head in 8 bits; the budget is the file's bytes without the embedding

`--budget`: for each of their artifacts phipack's with a budget of at most its bytes, too, calibrated as the last of the
levels. All are run by the same session of their format, and measured on OpenWebText, which nothing was tuned on.

Time and memory are those of the commands that make an artifact from the checkpoint, and nothing that phipack has
measured before is used. They are left out with a budget, whose sensitivities are kept, and for llama.cpp.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.full_size.measure import Measured, run
from benchmarks.peers import genai, llama_cpp, olive_gptq
from benchmarks.quantization import MODELS, Figures, Measuring
from builders.checkpoint import open_checkpoint
from builders.quantization.calibration.text import calibration_windows
from builders.tokenizer import tokenizer_of
from devtools import real_model
from devtools.accuracy import WINDOW, weight_bytes, with_weights
from devtools.packages import default_cache
from phipack.tables import table
from registry.bundle.folder import Bundle, open_bundle
from targets.budget import Budget
from targets.calibration import Calibration, CalibrationSettings
from targets.formatting import share
from targets.recipes import Recipe, recipe_named

TEXT = "OpenWebText"
MODEL_OF = {"gguf": "dithered-padded", "onnx": "dithered", "olive": "dithered"}
GENAI = ("algo_config=k_quant_mixed",)


@dataclass(frozen=True)
class Row:
    """One artifact: its recipe, its maker, the bytes of its weights, its figures, and the commands that made it."""

    recipe: str
    maker: str
    weight_bytes: int
    figures: Figures
    made: tuple[Measured, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """Another tool's files, and the commands that made them. `spare_bytes`: of weights that a budget need not match."""

    recipe: Recipe
    maker: str
    files: list[Path]
    made: tuple[Measured, ...] = ()
    spare_bytes: int = 0


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
        maker = f"phipack, {calibration}"
        if recipe.budget is not None:
            bundle, _ = self.measuring.built(recipe, calibration, self.scratch)
            return self.row(recipe.name, f"{maker}, budget", bundle)
        place = self.scratch / maker.replace(" ", "-")
        command = [sys.executable, "-m", "phipack", "--quiet", "build", str(self.checkpoint.path), "-o", str(place)]
        command += ["--recipe", recipe.name, "--calibration", calibration, "--context", str(WINDOW)]
        with tempfile.TemporaryDirectory(dir=self.scratch) as empty:  # of what calibrations have measured
            made = self.run(command, Path(empty))
        return self.row(recipe.name, maker, open_bundle(place), made)

    def run(self, command: list[str], folder: Path | None = None) -> Measured:
        """Run a command in a folder, by default the scratch folder."""
        made = run(command, cwd=folder or self.scratch)
        if made.failed:
            raise RuntimeError(f"{' '.join(command)}\n{made.failed}")
        return made

    def row(self, recipe: str, maker: str, bundle: Bundle, *made: Measured) -> Row:
        """Measure a bundle."""
        found = Row(recipe, maker, weight_bytes(bundle.path), self.measuring.figures(bundle)[TEXT], made)
        print(report([found]), flush=True)
        return found

    def theirs(self, artifact: Artifact, like: Bundle) -> Iterator[Row]:
        """Measure another tool's files, and if asked for phipack's bundle with as many bytes of weights."""
        recipe = artifact.recipe
        bundle = with_weights(self.scratch / artifact.maker.replace(" ", "-"), like, artifact.files)
        yield self.row(recipe.name, artifact.maker, bundle, *artifact.made)
        if self.budget:
            others = sum(file.bytes for file in like.manifest.files) - weight_bytes(like.path)
            size = Budget("bytes", weight_bytes(bundle.path) - artifact.spare_bytes + others)
            yield self.ours(replace(recipe, budget=size), self.levels[-1])

    def calibration_windows(self) -> NDArray[np.int64]:
        """Return the windows of token ids [W, T] that the last level reads."""
        return calibration_windows(self.checkpoint, CalibrationSettings(), self.levels[-1])

    def calibration_text(self) -> Path:
        """Write what the last level reads as a text, with its special tokens."""
        path, tokenizer = self.scratch / "calibration.txt", tokenizer_of(self.checkpoint)
        ids = self.calibration_windows().reshape(-1).tolist()
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
        yield from comparing.theirs(Artifact(recipe, "llama.cpp, with imatrix", [peer]), like)
    for level in comparing.levels:
        yield comparing.ours(recipe, level)
    blind = comparing.scratch / "llama-blind.gguf"
    llama_cpp.quantize(half, blind, "q4_k_m")
    yield next(comparing.theirs(Artifact(recipe, "llama.cpp", [blind]), like))


def onnx_rows(comparing: Comparing, _tool: Path | None) -> Iterator[Row]:
    """Compare with onnxruntime-genai's builder."""
    recipe = recipe_named("onnx-int4")
    yield comparing.ours(recipe, "none")
    files, made = _by_genai(comparing, comparing.checkpoint.path, comparing.scratch / "genai", GENAI)
    like = comparing.measuring.built(recipe, "none", comparing.scratch)[0]
    yield from comparing.theirs(Artifact(recipe, "genai, k_quant mixed", files, (made,)), like)
    for level in comparing.levels:
        yield comparing.ours(recipe, level)


def olive_rows(comparing: Comparing, _tool: Path | None) -> Iterator[Row]:
    """Compare with Olive's GPTQ."""
    recipe, architecture = recipe_named("onnx-int4"), comparing.checkpoint.architecture
    windows, quantized = comparing.scratch / "windows.npy", comparing.scratch / "olive"
    np.save(windows, comparing.calibration_windows())
    first = comparing.run(olive_gptq.command(comparing.checkpoint.path, windows, quantized, comparing.cache))
    files, second = _by_genai(comparing, quantized, comparing.scratch / "olive-onnx")
    olive_gptq.split_zero_points(files[0])
    embedding = 4 * architecture.vocabulary_size * architecture.hidden_size
    like = comparing.measuring.built(recipe, "none", comparing.scratch)[0]
    yield from comparing.theirs(Artifact(recipe, "Olive, GPTQ", files, (first, second), embedding), like)


def _by_genai(
    comparing: Comparing, source: Path, out: Path, options: Sequence[str] = ()
) -> tuple[list[Path], Measured]:
    """Build a checkpoint with genai's builder. Returns the graph's files, and what the command took."""
    made = comparing.run(genai.command(source, out, "int4", comparing.cache, options))
    return [out / "model.onnx", out / "model.onnx.data"], made


ROWS = {"gguf": gguf_rows, "onnx": onnx_rows, "olive": olive_rows}


def report(rows: list[Row]) -> str:
    """Return the rows as a table."""
    columns = ("recipe", "made by", "weights", "KL mean", "same top", "perplexity ratio", "processor-seconds", "peak")
    cells = [
        (
            row.recipe,
            row.maker,
            f"{row.weight_bytes:,}",
            f"{row.figures[0]:.4f} ± {row.figures[1]:.4f}",
            share(row.figures[2]),
            f"{row.figures[3]:.3f}",
            f"{sum(one.processor_seconds for one in row.made):.0f}" if row.made else "",
            f"{max(one.peak_bytes for one in row.made) / 2**30:.2f} GiB" if row.made else "",
        )
        for row in rows
    ]
    return table(columns, cells)


def main(arguments: list[str]) -> None:
    """Run the comparisons and print the table. Write it to `--out`, if set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", default=[*ROWS], help=f"of {', '.join(ROWS)} [default: all]")
    parser.add_argument("--model", choices=MODELS, help="[default: dithered-padded for gguf, dithered for the others]")
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
            scratch = Path(folder, name)
            scratch.mkdir(parents=True, exist_ok=True)
            comparing = Comparing(model, asked.tokens, scratch, levels, budget=asked.budget)
            rows += ROWS[name](comparing, asked.llama_imatrix)
    print(report(rows))
    if asked.out is not None:
        asked.out.write_text(f"```\n{report(rows)}\n```\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
