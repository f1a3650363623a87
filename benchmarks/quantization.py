"""What calibration does to 4-bit recipes: KL to float32 at equal bytes, in each format's own runtime, on unseen text.

    python -m benchmarks.quantization [RECIPE …] [--model dithered] [--at-most own] [--text NAME=FILE …] [--out FILE]

The real 135M model. Its weights come from a 4-bit file, so that some types look better on it than they are and others
worse: with `--model dithered` that grid is blurred (devtools/dithered.py). Compare types there; quote figures of the
original. `padded` has whole blocks for K-quants (devtools/padded.py), `wide` two layers with Phi-3-mini's widths
(devtools/wide.py). With `--at-most` types are chosen by measured sensitivity: `own` is the size of the recipe's own
bundle, `80%` a share of it. Calibration reads phipack's own text, and no window of the texts that are measured on.

The standard error is that of builders/validation/standard_error.py: from the means of blocks of 64 tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.build import build_each
from builders.build_cache import BuildCache
from builders.calibrate import calibrate_requests
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.conversion import BuildRequest
from builders.reference import FloatReference
from builders.runtime.session import Session
from builders.runtime.sessions import open_session
from builders.sizes import bundle_sizes
from builders.tokenizer import tokenizer_of
from builders.validation.compare import Comparison
from builders.validation.text import read_text, windows_of
from devtools import real_model
from devtools.accuracy import WINDOW, weight_bytes
from devtools.benchmark_texts import ensure_texts
from devtools.dithered import ensure_dithered
from devtools.packages import default_cache
from devtools.padded import ensure_padded
from devtools.wide import ensure_wide
from phipack.tables import table
from registry.bundle.folder import Bundle, open_bundle
from targets.budget import Budget
from targets.calibration import CALIBRATIONS, Calibration, CalibrationSettings
from targets.formatting import share
from targets.recipes import Recipe, recipe_named

RECIPES = ("onnx-int4", "coreml-int4", "gguf-q4_0", "gguf-iq4_nl", "gguf-q4_k_m")
# KL, its standard error, the share of positions with the same top token, the ratio of the perplexities.
Figures = tuple[float, float, float, float]
MODELS: dict[str, Callable[[], Path]] = {
    "original": lambda: real_model.ensure().checkpoint,
    "dithered": ensure_dithered,
    "padded": ensure_padded,
    "dithered-padded": lambda: ensure_padded(dithered=True),
    "wide": ensure_wide,
}


@dataclass(frozen=True)
class Text:
    """Windows of token ids [W, T] and the reference's hidden states of them."""

    windows: NDArray[np.int64]
    hidden: NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One bundle on one text.

    `budget`: empty, or the bytes allowed. `seconds`: of processors, for the build without statistics.
    """

    recipe: str
    calibration: Calibration
    budget: str
    text: str
    weight_bytes: int
    seconds: float
    kl: float
    kl_error: float
    same_top: float
    perplexity_ratio: float


class Measuring:
    """The checkpoint, the texts, and the statistics of each level, which all recipes share."""

    def __init__(self, checkpoint: Checkpoint, texts: Mapping[str, Path], tokens: int) -> None:
        self.checkpoint = checkpoint
        self.reference = FloatReference(checkpoint, default_cache() / "reference")
        self.cache = BuildCache(default_cache() / "quantization")
        self.seconds: dict[Calibration, float] = {}
        tokenizer = tokenizer_of(checkpoint)
        self.texts = {}
        for name, path in texts.items():
            windows = windows_of(tokenizer, read_text(path), count=tokens // WINDOW, length=WINDOW)
            self.texts[name] = Text(windows, self.reference.hidden(windows))

    def rows(self, recipe: Recipe, calibration: Calibration, scratch: Path) -> list[Row]:
        """Build a bundle, and measure it on each text."""
        bundle, seconds = self.built(recipe, calibration, scratch)
        asked = "" if recipe.budget is None else recipe.budget.label
        head, size = (recipe.name, calibration, asked), weight_bytes(bundle.path)
        return [Row(*head, name, size, seconds, *figures) for name, figures in self.figures(bundle).items()]

    def built(self, recipe: Recipe, calibration: Calibration, scratch: Path) -> tuple[Bundle, float]:
        """Build a bundle in a folder of its own. Returns it, and the processor-seconds after the statistics."""
        request = BuildRequest.from_checkpoint(self.checkpoint, recipe, WINDOW)
        place = scratch / f"{recipe.name}-{calibration}-{0 if recipe.budget is None else recipe.budget.in_names}"
        started = time.process_time()
        ready, problems = calibrate_requests({place: request}, {place: calibration}, CalibrationSettings(), self.cache)
        self.seconds.setdefault(calibration, time.process_time() - started)
        started = time.process_time()
        problems |= build_each(ready)
        for problem in problems.values():
            raise problem
        return open_bundle(place), time.process_time() - started

    def figures(self, bundle: Bundle) -> dict[str, Figures]:
        """Run a bundle in its runtime, and compare it with the reference on each text."""
        with open_session(bundle) as session:
            return {name: self._measured(text, session) for name, text in self.texts.items()}

    def budget(self, recipe: Recipe, size: str) -> Budget:
        """Return a budget: a size, or `own` or a share in per cent of the recipe's own bundle."""
        if size != "own" and not size.endswith("%"):
            return Budget.of_size(size)
        request = BuildRequest.from_checkpoint(self.checkpoint, recipe, WINDOW)
        percent = 100 if size == "own" else int(size[:-1])
        return Budget("bytes", sum(bundle_sizes(request).values()) * percent // 100)

    def _measured(self, text: Text, session: Session) -> Figures:
        comparison = Comparison()
        scored = session.score_each(list(text.windows))
        for states, tokens, logits in zip(text.hidden, text.windows, scored, strict=True):
            comparison.add(self.reference.logits(states), logits, tokens)
        figures = comparison.figures()
        return (
            figures["kl_mean"],
            figures["kl_standard_error"],
            figures["same_top_share"],
            figures["perplexity_ratio"],
        )


def report(rows: list[Row]) -> str:
    """Return the rows as a table. Each KL is also given as a share of the uncalibrated recipe's on the same text."""
    plain = {(row.recipe, row.text): row.kl for row in rows if row.calibration == "none"}
    columns = (
        "recipe",
        "calibration",
        "budget",
        "text",
        "weights",
        "KL mean",
        "of none",
        "same top",
        "perplexity ratio",
        "build, processor-seconds",
    )
    cells = [
        (
            row.recipe,
            row.calibration,
            row.budget,
            row.text,
            f"{row.weight_bytes:,}",
            f"{row.kl:.4f} ± {row.kl_error:.4f}",
            f"{row.kl / plain[row.recipe, row.text]:.2f}" if (row.recipe, row.text) in plain else "",
            share(row.same_top),
            f"{row.perplexity_ratio:.3f}",
            f"{row.seconds:.0f}",
        )
        for row in rows
    ]
    return table(columns, cells)


def _texts(given: list[str], only: list[str]) -> dict[str, Path]:
    model = real_model.ensure()
    texts = {"OpenWebText": model.openwebtext, "Wikipedia": model.wikipedia, **ensure_texts()}
    for one in given:
        name, _, path = one.partition("=")
        texts[name] = Path(path)
    return {name: path for name, path in texts.items() if not only or name in only}


def main(arguments: list[str]) -> None:
    """Build and measure all that is asked for, and print the table. Write it to `--out`, if set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES, help=f"[default: {' '.join(RECIPES)}]")
    parser.add_argument("--model", choices=MODELS, default="original")
    parser.add_argument("--calibration", action="append", choices=CALIBRATIONS, help="[default: each]")
    parser.add_argument(
        "--at-most", action="append", default=[], metavar="SIZE", help="such as 95MB, own or 80%%; with light and full"
    )
    parser.add_argument("--tokens", type=int, default=4096, help="of each text")
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE", help="measure on this text, too")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="measure on this text [default: all]"
    )
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    texts = _texts(asked.text, asked.only)
    measuring = Measuring(open_checkpoint(MODELS[asked.model]()), texts, asked.tokens)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.recipes:
            recipe = recipe_named(name)
            budgets = [measuring.budget(recipe, size) for size in asked.at_most]
            for calibration in asked.calibration or CALIBRATIONS:
                for budget in [None, *(budgets if calibration != "none" else [])]:
                    rows += measuring.rows(replace(recipe, budget=budget), calibration, Path(scratch))
                    print(report(rows[-len(measuring.texts) :]), flush=True)
    text = f"{report(rows)}\n"
    text += "".join(
        f"statistics, {level}: {seconds:.0f} processor-seconds\n" for level, seconds in measuring.seconds.items()
    )
    print(text)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        head = f"SmolLM2-135M as Phi3ForCausalLM ({asked.model}), {asked.tokens} tokens of each text, against float32."
        asked.out.write_text(f"{head}\n\n```\n{text}```\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
