"""Calibrated tensors: with importances the bytes are llama-quantize's own, with all moments the outputs are closer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.conversion import BuildRequest
from builders.gguf.convert import artifact_sizes, convert
from builders.gguf.encoding import encoded
from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.ggml_library import encode
from builders.reference.statistics import multiplied
from targets.calibration import Calibration
from targets.gguf_names import gguf_name
from targets.layouts import canonical_names
from targets.recipes import recipe_named
from targets.storage.gguf import TYPES
from tests.support import llama_cpp as llamacpp
from tests.support.checkpoints import Tiny, write_tiny

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """Statistics that a test has chosen. Implements `CalibrationStatistics`."""

    squares: dict[str, Floats]
    calibration: Calibration = "light"
    text_digest: str = "sha256:0"
    token_count: int = 100

    unusable: tuple[str, ...] = ()

    def of(self, name: str) -> MatrixStatistics | None:
        return MatrixStatistics(self.squares[name]) if name in self.squares else None


def squares_of(checkpoint: Checkpoint) -> dict[str, Floats]:
    generator, shapes = np.random.default_rng(0), checkpoint.architecture.tensor_shapes()
    names = multiplied(checkpoint.architecture)
    return {name: generator.exponential(size=shapes[name][1]).astype(np.float32) + 0.01 for name in names}


@pytest.mark.parametrize(
    ("recipe", "tiny"),
    [
        ("gguf-q4_k_m", Tiny(hidden=256, intermediate=256, layers=1, heads=4)),
        ("gguf-q3_k_m", Tiny(hidden=256, intermediate=256, layers=1, heads=4)),
        ("gguf-iq4_nl", Tiny(hidden=64, layers=1)),
        ("gguf-q4_k_m", Tiny(family="llama", hidden=64, layers=1, tied=True)),
        ("gguf-f16", Tiny(layers=1)),
    ],
)
def test_light_calibration_gives_the_bytes_of_llama_quantize_with_an_imatrix(
    recipe: str, tiny: Tiny, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", tiny))
    squares = squares_of(checkpoint)
    plain = BuildRequest.from_checkpoint(checkpoint, recipe_named(recipe), 256)
    sizes = artifact_sizes(plain)
    for name, request in (("plain", plain), ("light", replace(plain, statistics=Known(squares)))):
        (tmp_path / name).mkdir()
        convert(request, tmp_path / name)
        assert (tmp_path / name / "model.gguf").stat().st_size == sizes["model.gguf"]
    canonical = canonical_names(checkpoint.architecture)
    importances = {gguf_name(name): squares[whole] for name, whole in canonical.items() if whole in squares}
    source = llamacpp.write_float32(checkpoint, tmp_path / "f32.gguf")
    theirs = llamacpp.quantize(source, tmp_path / "q.gguf", llamacpp.FILE_TYPES[recipe], importances)
    found = llamacpp.tensors(tmp_path / "light" / "model.gguf")
    assert found == llamacpp.tensors(theirs)
    assert (found == llamacpp.tensors(tmp_path / "plain" / "model.gguf")) == (recipe == "gguf-f16")


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "Q3_K", "Q4_K", "Q5_1", "Q6_K"])
def test_full_calibration_keeps_the_outputs_closer(kind: str) -> None:
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(96, 512)).astype(np.float32)
    inputs = (generator.normal(size=(2000, 32)) @ generator.normal(size=(32, 512))).astype(np.float32)
    inputs += generator.normal(size=inputs.shape).astype(np.float32) * np.geomspace(0.1, 5, 512, dtype=np.float32)
    moments = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    squares = np.diagonal(moments).copy()
    halves = (moments[:256, :256].copy(), moments[256:, 256:].copy())
    losses = []
    for statistics in (None, MatrixStatistics(squares), MatrixStatistics(squares, halves)):
        raw = encoded(weights, TYPES[kind], statistics, name="it")
        error = llamacpp.dequantize(raw, kind).reshape(weights.shape) - weights
        assert raw.shape == encode(weights, TYPES[kind], name="it").shape
        losses.append(float(np.einsum("rc,cd,rd->", error, moments, error, optimize=True)))
    assert losses[2] < 0.6 * min(losses[:2])
