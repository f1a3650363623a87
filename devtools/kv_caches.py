"""Measures what types of KV cache cost the real model in accuracy, for the table in docs/quantization.md.

Its weights stay in float16 (gguf-f16): the cache alone differs. Two stretches of 512 tokens of OpenWebText are
compared at the end of sequences of 512, of 2,048 and of 4,096 tokens: the same stretches, with more and more before
them. Recent versions of llama.cpp rotate keys and values (Hadamard) before they quantize them where the width of a head
is a multiple of 64, as here; with LLAMA_ATTN_ROT_DISABLE they don't, which shows what models with other heads get, such
as Phi-3-mini with 96.

Run `python -m devtools.kv_caches`: minutes, and 3 GB of memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from builders.runtime.gguf_session import open_session
from builders.tokenizer import tokenizer_of
from builders.validation.compare import Comparison
from builders.validation.text import read_text, windows_of
from devtools import real_model
from devtools.packages import default_cache
from registry.bundle.folder import Bundle
from targets.kv_cache import with_kv_cache
from targets.recipes import recipe_named

LENGTHS = (512, 2048, 4096)
TYPES = ("f16", "q8_0", "q4_0")
SEQUENCES = 2
END = 512  # tokens of each sequence that are compared
_SWITCH = "LLAMA_ATTN_ROT_DISABLE"


def main() -> None:
    """Print a row for each length, type of cache and rotation."""
    model = real_model.ensure()
    checkpoint = open_checkpoint(model.checkpoint)
    text, tokenizer = read_text(model.openwebtext), tokenizer_of(checkpoint)
    reference = FloatReference(checkpoint, default_cache() / "reference")
    print("tokens", "cache", "rotated", "KL from float32", "same top", "ppl ratio", sep=" | ")
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {
            name: build(
                checkpoint,
                with_kv_cache(recipe_named("gguf-f16"), name),
                Path(scratch) / name,
                context_length=max(LENGTHS),
            )
            for name in TYPES
        }
        whole = windows_of(tokenizer, text, count=SEQUENCES, length=max(LENGTHS))
        for length in LENGTHS:
            windows = whole[:, -length:]
            expected = [reference.logits(states[-END:]) for states in reference.hidden(windows)]
            for name in TYPES:
                for rotated in (True,) if name == "f16" else (True, False):
                    with _rotation(rotated):
                        found = _scores(bundles[name], windows)
                    exact = _compare(expected, found, windows)
                    figures = (exact["kl_mean"], exact["same_top_share"], exact["perplexity_ratio"])
                    print(length, name, rotated, *(f"{figure:.5f}" for figure in figures), sep=" | ", flush=True)


def _scores(bundle: Bundle, windows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    with open_session(bundle, windows.shape[1]) as session:
        return [session.score(tokens)[-END:].copy() for tokens in windows]


def _compare(
    expected: list[NDArray[np.float32]], found: list[NDArray[np.float32]], windows: NDArray[np.int64]
) -> dict[str, float]:
    comparison = Comparison()
    for one, other, tokens in zip(expected, found, windows[:, -END:], strict=True):
        comparison.add(one, other, tokens)
    return comparison.figures()


@contextmanager
def _rotation(wanted: bool) -> Iterator[None]:
    if not wanted:
        os.environ[_SWITCH] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SWITCH, None)


if __name__ == "__main__":
    main()
