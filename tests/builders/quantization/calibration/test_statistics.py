"""Mean squares as all formats use them: columns without input in a text keep their weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from builders.gguf.encoding import encoded
from builders.onnx.quantize import dequantize, quantize
from builders.quantization.calibration.measure import MeasuredStatistics
from builders.quantization.calibration.statistics import Floats, MatrixStatistics
from builders.quantization.grids.affine import AffineGrid
from builders.quantization.rounding.block_tables import BlockTables, block_table_matrix
from builders.quantization.rounding.matrix import affine_matrix
from builders.quantization.rounding.tables import table_matrix
from targets.config_json import read_architecture
from targets.storage.gguf import TYPES
from targets.storage.onnx import FOUR_BITS
from tests.support import llama_cpp as llamacpp
from tests.support.checkpoints import Tiny

NAME = "model.layers.0.mlp.down_proj.weight"
Rounded = Callable[[Floats, MatrixStatistics], Floats]


def of_matrix(squares: Floats) -> MatrixStatistics | None:
    architecture = read_architecture(Tiny().config())
    return MeasuredStatistics(architecture, "light", "sha256:0", 1, {NAME: squares}, {}).of(NAME)


def in_q4_0(weights: Floats, statistics: MatrixStatistics) -> Floats:
    raw = encoded(weights, TYPES["Q4_0"], statistics, name=NAME)
    return llamacpp.dequantize(raw, "Q4_0").reshape(weights.shape)


@pytest.mark.parametrize(
    "rounded",
    [
        in_q4_0,
        lambda weights, known: dequantize(quantize(weights, FOUR_BITS, known)),
        lambda weights, known: affine_matrix(weights, AffineGrid(32), known).dequantized(),
        lambda weights, known: table_matrix(weights, 4, known).dequantized(),
        lambda weights, known: block_table_matrix(weights, BlockTables(4, 4, 32), known).dequantized(),
    ],
    ids=["GGUF", "ONNX", "Core ML", "tables", "tables scaled by block"],
)
def test_a_column_that_was_never_used_still_keeps_its_weights(rounded: Rounded) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    squares = np.ones(64, dtype=np.float32)
    squares[:40] = 0  # a whole block and a part of one
    statistics = of_matrix(squares)
    assert statistics is not None
    error = rounded(weights, statistics) - weights
    assert np.sqrt(np.square(error).mean()) < 0.15


def test_a_matrix_without_any_input_is_rounded_as_if_nothing_were_known() -> None:
    assert of_matrix(np.zeros(64, np.float32)) is None
