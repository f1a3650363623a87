"""The quantizer's laws, and its packing against onnxruntime's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from builders.onnx import quantize as module
from builders.onnx.quantize import dequantize, pack, quantize, unpack
from builders.quantization.rounding import matrix as rounding
from targets.storage.onnx import Blocks

INT4, UINT4, INT8 = Blocks(4, 32, zero_points=False), Blocks(4, 32, zero_points=True), Blocks(8, 32, zero_points=False)
KINDS = [INT4, UINT4, INT8, Blocks(4, 16, zero_points=True), Blocks(8, 32, zero_points=True)]


def matrices(columns: int = 96) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 5), st.just(columns))
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-100, 100, width=32)))


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from(KINDS))
def test_no_weight_is_further_off_than_plain_rounding_allows(matrix: np.ndarray, blocks: Blocks) -> None:
    quantized = quantize(matrix, blocks)
    error = np.square(dequantize(quantized) - matrix).reshape(len(matrix), -1, blocks.size).sum(-1)
    # Rounding to a grid over the block's widest range errs by half a step an element; an end may lose one step.
    flat = matrix.reshape(len(matrix), -1, blocks.size)
    width = np.maximum(np.ptp(flat, axis=-1), 2 * np.abs(flat).max(-1))
    step = width / ((1 << blocks.bits) - 1) + 1e-7
    assert (error <= blocks.size * np.square(step) + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from(KINDS))
def test_a_block_of_zeros_stays_zero_and_sizes_are_as_planned(matrix: np.ndarray, blocks: Blocks) -> None:
    matrix[:, : blocks.size] = 0
    quantized = quantize(matrix, blocks)
    assert (dequantize(quantized)[:, : blocks.size] == 0).all()
    assert tuple((array.dtype, array.shape) for array in quantized.arrays) == tuple(
        (array.dtype, array.shape) for array in blocks.arrays(matrix.shape)
    )


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(0, 15)))
def test_unpacking_gives_the_codes_back(codes: np.ndarray) -> None:
    assert np.array_equal(unpack(pack(codes, 4), 4)[:, : codes.shape[1]], codes)


@pytest.mark.parametrize("blocks", KINDS)
def test_chunks_change_nothing(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 96)).astype(np.float32)
    whole = quantize(matrix, blocks)
    monkeypatch.setattr(rounding, "_ELEMENTS", 200)
    for one, other in zip(whole.arrays, quantize(matrix, blocks).arrays, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("zero_points", "share"), [(False, 1.001), (True, 0.95)])
def test_onnxruntimes_packing_is_read_as_ours_and_ours_errs_less(zero_points: bool, share: float) -> None:
    """Without zero points there is no search: only scales are rounded to float16."""
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    matrix = np.random.default_rng(3).standard_t(6, (64, 160)).astype(np.float32)
    blocks = Blocks(4, 32, zero_points=zero_points)
    codes = np.zeros((64, 5, 16), dtype=np.uint8)
    scales, zeros = np.zeros((64 * 5,), dtype=np.float32), np.zeros((64, 3), dtype=np.uint8)
    transposed = np.ascontiguousarray(matrix.T)
    quantize_matmul_4bits(codes, transposed, scales, zeros.reshape(-1), 32, 64, 160, not zero_points)
    theirs = module.QuantizedMatrix(
        blocks, codes, scales.reshape(64, 5).astype(np.float16), zeros if zero_points else None
    )
    error = np.square(dequantize(theirs) - matrix).mean()
    assert error < np.square(np.ptp(matrix) / 15).mean() / 10  # read as anything else, it would be noise
    assert np.square(dequantize(quantize(matrix, blocks)) - matrix).mean() < share * error


@pytest.mark.parametrize("blocks", KINDS)
def test_the_runtime_multiplies_with_what_dequantize_gives(blocks: Blocks) -> None:
    import onnx
    import onnxruntime as ort

    rng = np.random.default_rng(5)
    matrix, value = (rng.standard_normal(shape).astype(np.float32) for shape in ((48, 96), (3, 96)))
    quantized = quantize(matrix, blocks)
    codes, scales, *zero_points = quantized.arrays
    names = ["codes", "scales", "zero_points"][: len(quantized.arrays)]
    parts = dict(zip(names, [codes, scales.astype(np.float32), *zero_points], strict=True))
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft",
        K=96, N=48, bits=blocks.bits, block_size=blocks.size, accuracy_level=1,
    )  # fmt: skip
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("x", 1, [3, 96])],
        [onnx.helper.make_tensor_value_info("y", 1, [3, 48])],
        [onnx.numpy_helper.from_array(array, name) for name, array in parts.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": value})
    assert np.abs(product - value @ dequantize(quantized).T).max() < 1e-4


def test_columns_must_fill_blocks_and_scales_must_fit() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        quantize(np.zeros((2, 33), dtype=np.float32), INT4)
    with pytest.raises(OverflowError, match="too large"):
        quantize(np.full((2, 32), 1e9, dtype=np.float32), INT4)
