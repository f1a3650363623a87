"""Every recipe on the real model, against float32, on English: what docs/benchmarks/accuracy.md promises.

`make test` reads 1,024 tokens with one recipe, `make test-all` the 4,096 of that page with all. The bounds on 4-bit
recipes there are what the formats' own tools reach at the same size (benchmarks/four_bit.py); the one for 1,024 tokens
is as far from our figure.
"""

from __future__ import annotations

import os

import pytest

from builders.runtime.sessions import open_session
from devtools.accuracy import Bench

WHOLE = os.environ.get("ACCURACY") == "all"
TOKENS = 4096 if WHOLE else 1024

# recipe -> tokens -> (largest mean KL divergence in nats, smallest share of positions with the same top token)
BOUNDS = {
    "gguf-f16": {4096: (1e-4, 0.995)},
    "onnx-fp16": {4096: (1e-4, 0.995)},
    "coreml-fp16": {4096: (1e-4, 0.995)},
    "gguf-q8_0": {4096: (0.005, 0.95)},
    "gguf-q4_k_m": {4096: (0.062, 0.86)},  # llama.cpp's quantizer: .0592 here; its kernels round by processor
    "gguf-q4_0": {4096: (0.33, 0.69)},  # llama.cpp's quantizer: .314
    "onnx-int4": {4096: (0.25, 0.75), 1024: (0.27, 0.76)},  # onnxruntime-genai's builder: .411
    "coreml-int4": {4096: (0.53, 0.60)},  # coremltools' compression: .529
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("real"), tokens=TOKENS)


@pytest.mark.parametrize("recipe", [recipe for recipe, bounds in BOUNDS.items() if TOKENS in bounds])
def test_a_bundle_answers_like_its_checkpoint(bench: Bench, recipe: str) -> None:
    bundle = bench.ours(recipe)
    with open_session(bundle) as session:
        figures = bench.compare(session.score)
    most, least = BOUNDS[recipe][TOKENS]
    assert figures["kl_mean"] <= most
    assert figures["same_top_share"] >= least


def test_the_reference_reads_english(bench: Bench) -> None:
    """A guard for the others: were the model or the text nonsense, closeness to it would mean nothing."""
    itself = iter(bench.hidden)
    figures = bench.compare(lambda _: bench.reference.logits(next(itself)))
    assert figures["kl_mean"] == 0
    assert figures["reference_perplexity"] < 40
