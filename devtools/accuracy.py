"""Compares the real model's bundles with float32 on held-out English, for docs/benchmarks/accuracy.md and its tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference
from builders.runtime.sessions import open_session
from builders.tokenizer import tokenizer_of
from builders.validation.compare import Comparison
from builders.validation.text import read_text, windows_of
from devtools import real_model
from devtools.packages import default_cache
from registry.bundle.folder import Bundle, file_entries, open_bundle, seal
from targets.recipes import recipe_named

WINDOW = 512
Score = Callable[[NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """One artifact: its format, its maker, the bytes of its weights' file, and the figures of the comparison."""

    format: str
    maker: str
    weight_bytes: int
    figures: dict[str, float]


class Bench:
    """The reference's results for all comparisons, and a scratch folder."""

    def __init__(self, scratch: Path, tokens: int) -> None:
        self.model = real_model.ensure()
        self.cache = default_cache()
        self.scratch = scratch
        self.checkpoint: Checkpoint = open_checkpoint(self.model.checkpoint)
        tokenizer = tokenizer_of(self.checkpoint)
        text = read_text(self.model.openwebtext)
        self.windows = windows_of(tokenizer, text, count=tokens // WINDOW, length=WINDOW)
        self.reference = FloatReference(self.checkpoint, self.cache / "reference")
        self.hidden = self.reference.hidden(self.windows)

    def compare(self, score: Score) -> dict[str, float]:
        """Run all windows through a scorer and compare the results with the reference's."""
        comparison = Comparison()
        for states, tokens in zip(self.hidden, self.windows, strict=True):
            comparison.add(self.reference.logits(states), score(tokens), tokens)
        return comparison.figures()

    def ours(self, recipe: str) -> Bundle:
        """Build a bundle with phipack."""
        return build(self.checkpoint, recipe_named(recipe), self.scratch / recipe, context_length=WINDOW)

    def theirs(self, name: str, like: Bundle, files: list[Path]) -> Bundle:
        """Put another tool's weights into a copy of phipack's bundle, so that the same session runs them."""
        return with_weights(self.scratch / name, like, files)

    def row(self, format_: str, maker: str, bundle: Bundle) -> Row:
        """Measure a bundle with its format's session."""
        with open_session(bundle) as session:
            return Row(format_, maker, weight_bytes(bundle.path), self.compare(session.score))


def with_weights(folder: Path, like: Bundle, files: list[Path]) -> Bundle:
    """Write a copy of a bundle that has other files in place of its weights."""
    shutil.copytree(like.path, folder, ignore=shutil.ignore_patterns("model.*", "manifest.json"))
    for file in files:
        target = folder / ("model.gguf" if file.suffix == ".gguf" else file.name)
        shutil.copytree(file, target) if file.is_dir() else shutil.copyfile(file, target)
    seal(folder, like.manifest.model_copy(update={"files": file_entries(folder)}))
    return open_bundle(folder)


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a bundle's weights: all files named model.*."""
    found = [path for path in folder.rglob("*") if path.is_file() and "model." in path.relative_to(folder).as_posix()]
    return sum(path.stat().st_size for path in found if path.name != "tokenizer.model")
