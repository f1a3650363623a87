"""The measurement of KV caches' types ranks them on a tiny model, in both runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.quantization.calibration.measure import measured_statistics, with_cache_ranges
from builders.quantization.calibration.special_tokens import special_token_windows
from builders.reference import FloatReference
from devtools import kv_caches
from devtools.kv_caches import Row, Stretches, gguf_rows, onnx_rows, report
from tests.support.checkpoints import Tiny, write_tiny

LENGTH, END = 160, 96


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    tiny = Tiny(hidden=128, heads=2, kv_heads=1)  # heads of 64 values, which llama.cpp rotates
    return open_checkpoint(write_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint", tiny))


@pytest.fixture
def stretches(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Stretches:
    monkeypatch.setattr(kv_caches, "END", END)
    windows = np.random.default_rng(0).integers(0, 300, (2, LENGTH))
    return Stretches.of(FloatReference(checkpoint), windows)


def by_cache(rows: list[Row], recipe: str) -> dict[str, float]:
    assert all(row.length == LENGTH for row in rows)
    assert report(rows).count(recipe) >= 2
    return {row.cache: row.figures["kl_mean"] for row in rows if row.recipe == recipe}


def test_only_the_ends_are_compared(stretches: Stretches) -> None:
    assert [len(logits) for logits in stretches.expected] == [END, END]


def test_fewer_bits_cost_more_in_llama_cpp(checkpoint: Checkpoint, stretches: Stretches, tmp_path: Path) -> None:
    found = by_cache([*gguf_rows(checkpoint, stretches, tmp_path)], "gguf-f16")
    assert found["f16"] < found["q8_0"] < found["q4_0"]
    assert found["q4_0"] != found["q4_0, not rotated"] > 10 * found["q8_0, not rotated"]


def test_fewer_bits_cost_more_in_onnxruntime(checkpoint: Checkpoint, stretches: Stretches, tmp_path: Path) -> None:
    folder, windows = tmp_path / "cache", stretches.windows
    learned = measured_statistics(checkpoint, "light", windows, folder)
    learned = with_cache_ranges(learned, checkpoint, special_token_windows(checkpoint, windows), folder)
    rows = [*onnx_rows(checkpoint, stretches, tmp_path, learned)]
    found = by_cache(rows, "onnx-fp16")
    assert 10 * found["float"] < found["int8"] < found["int4"] / 10
    assert by_cache(rows, "onnx-int4").keys() == {"float", "int8"}
