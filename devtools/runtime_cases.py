"""Small ONNX models, each for one feature of `targets/runtimes/table.toml`, and their inputs.

The model itself needs as little as possible (IR 8, opset 17), so that an old onnxruntime fails for the feature alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builders.onnx.attention import QUANTIZED_CACHE

_OPSET, _IR = 17, 8
_TOKENS, _HEADS, _KEY_HEADS, _HEAD_DIM, _LONGEST = 12, 2, 1, 16, 32
_NUMBERS = np.random.default_rng(7)
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and the features that it uses."""

    features: tuple[str, ...]
    model: bytes
    inputs: Arrays


def cases() -> dict[str, Case]:
    """Return all cases by name: the feature that is tried."""
    found = {f"onnx/opset/{opset}": _add(f"onnx/opset/{opset}", opset, _IR) for opset in range(17, 24)}
    found |= {f"onnx/ir/{ir}": _add(f"onnx/ir/{ir}", _OPSET, ir) for ir in range(8, 12)}
    found |= {f"onnx/operator/MatMulNBits/bits={bits}": _product(bits) for bits in (2, 4, 8)}
    found |= {f"onnx/operator/GatherBlockQuantized/bits={bits}": _rows(bits) for bits in (4, 8)}
    for variant in ("", "/rotary", "/window", "/positions", "/int8"):
        found[f"onnx/operator/GroupQueryAttention{variant}"] = _attention(variant)
    for name, make in _SIMPLE.items():
        found[f"onnx/operator/{name}"] = make(f"onnx/operator/{name}")
    return found


def _model(nodes: list[Any], inputs: Arrays, constants: Arrays, *, opset: int = _OPSET, ir: int = _IR) -> bytes:
    types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(name, types[name], value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, ir_version=ir, opset_imports=opsets).SerializeToString())


def _node(kind: str, inputs: list[str], outputs: tuple[str, ...] = ("out",), **attributes: Any) -> Any:
    domain = "" if kind in ("Add", "SimplifiedLayerNormalization") else "com.microsoft"
    return helper.make_node(kind, inputs, list(outputs), domain=domain, **attributes)


def _floats(*shape: int) -> NDArray[np.float32]:
    return _NUMBERS.standard_normal(shape, dtype=np.float32)


def _add(feature: str, opset: int, ir: int) -> Case:
    inputs = {"x": _floats(2, 4)}
    return Case((feature,), _model([_node("Add", ["x", "x"])], inputs, {}, opset=opset, ir=ir), inputs)


def _product(bits: int) -> Case:
    inputs = {"x": _floats(3, 64)}
    codes = _NUMBERS.integers(0, 256, (16, 2, 4 * bits), dtype=np.uint8)
    constants = {"codes": codes, "scales": np.abs(_floats(32)) * 0.01}
    node = _node("MatMulNBits", ["x", "codes", "scales"], K=64, N=16, bits=bits, block_size=32)
    name = "onnx/operator/MatMulNBits"
    return Case((name, f"{name}/bits={bits}"), _model([node], inputs, constants), inputs)


def _rows(bits: int) -> Case:
    inputs = {"ids": np.array([[3, 1]], dtype=np.int64)}
    codes = _NUMBERS.integers(0, 256, (8, 64 * bits // 8), dtype=np.uint8)
    constants = {"codes": codes, "scales": np.abs(_floats(8, 2))}
    node = _node(
        "GatherBlockQuantized",
        ["codes", "ids", "scales"],
        bits=bits,
        block_size=32,
        gather_axis=0,
        quantize_axis=1,
    )
    name = "onnx/operator/GatherBlockQuantized"
    return Case((name, f"{name}/bits={bits}"), _model([node], inputs, constants), inputs)


def _attention(variant: str) -> Case:
    width = (_HEADS + 2 * _KEY_HEADS) * _HEAD_DIM
    cache = np.zeros((1, _KEY_HEADS, 0, _HEAD_DIM), np.int8 if variant == "/int8" else np.float32)
    inputs: Arrays = {"qkv": _floats(1, _TOKENS, width), "past_key": cache, "past_value": cache}
    constants: Arrays = {
        "last": np.array([_TOKENS - 1], np.int32),
        "total": np.array(_TOKENS, np.int32),
        "cosines": _floats(_LONGEST, _HEAD_DIM // 2),
        "sines": _floats(_LONGEST, _HEAD_DIM // 2),
        "ids": np.arange(3, 3 + _TOKENS, dtype=np.int64)[None],
        "key_scales": np.full(_KEY_HEADS * _HEAD_DIM, 0.03, np.float32),
        "value_scales": np.full(_KEY_HEADS * _HEAD_DIM, 0.03, np.float32),
    }
    rotary = variant in ("/rotary", "/positions", "/int8")
    names = ["qkv", "", "", "past_key", "past_value", "last", "total", *(("cosines", "sines") if rotary else ())]
    names += ["ids"] if variant == "/positions" else []
    names += ["", "", "", "key_scales", "value_scales"] if variant == "/int8" else []
    node = _node(
        "GroupQueryAttention",
        names,
        ("out", "key", "value"),
        num_heads=_HEADS,
        kv_num_heads=_KEY_HEADS,
        do_rotary=int(rotary),
        **({"local_window_size": 4} if variant == "/window" else {}),
        **(QUANTIZED_CACHE if variant == "/int8" else {}),
    )
    name = "onnx/operator/GroupQueryAttention"
    features = (name, f"{name}{variant}", *((f"{name}/rotary",) if rotary else ()))
    used = {key: value for key, value in constants.items() if key in names}
    return Case(tuple(dict.fromkeys(features)), _model([node], inputs, used), inputs)


def _norm(kind: str, *constants: str, skip: bool) -> Callable[[str], Case]:
    def make(feature: str) -> Case:
        inputs = {"x": _floats(2, 3, 16)} | ({"skip": _floats(2, 3, 16)} if skip else {})
        own = {"epsilon": 1e-5} | ({} if skip else {"axis": -1, "stash_type": 1})
        node = _node(kind, [*inputs, *constants], **own)
        return Case((feature,), _model([node], inputs, {name: _floats(16) for name in constants}), inputs)

    return make


def _quick_gelu(feature: str) -> Case:
    inputs = {"x": _floats(2, 8)}
    return Case((feature,), _model([_node("QuickGelu", ["x"], alpha=1.0)], inputs, {}), inputs)


def _fused_product(feature: str) -> Case:
    inputs = {"x": _floats(2, 8)}
    return Case((feature,), _model([_node("FusedMatMul", ["x", "w"], transB=1)], inputs, {"w": _floats(4, 8)}), inputs)


def _rotation(feature: str) -> Case:
    inputs = {"x": _floats(1, 4, 32), "ids": np.arange(4, dtype=np.int64)[None]}
    constants: Arrays = {"cosines": _floats(8, 8), "sines": _floats(8, 8)}
    node = _node("RotaryEmbedding", ["x", "ids", "cosines", "sines"], num_heads=2, interleaved=0)
    return Case((feature,), _model([node], inputs, constants), inputs)


_SIMPLE: dict[str, Callable[[str], Case]] = {
    "SimplifiedLayerNormalization": _norm("SimplifiedLayerNormalization", "gamma", skip=False),
    "SkipSimplifiedLayerNormalization": _norm("SkipSimplifiedLayerNormalization", "gamma", skip=True),
    "SkipLayerNormalization": _norm("SkipLayerNormalization", "gamma", "beta", skip=True),
    "QuickGelu": _quick_gelu,
    "FusedMatMul": _fused_product,
    "RotaryEmbedding": _rotation,
}
