"""The decoder as a MIL program (iOS 18), written op by op: no trace, and no weights in memory.

Shapes: q new tokens, n positions of the cache that are attended, K key heads, g query heads a key head, d head size.
n is the tokens in all, those in the cache and the new ones; in fixed shapes it is the whole context.

Precision: matrices, rotation, keys, values and attention are float16; the residual stream and the norms are float32.
Squares of the stream's few large channels overflow float16, and rounding the stream costs most of what float16 costs:
on the 135M model mean KL is 0.9e-5 this way, and 1.6e-5 with a float16 stream (same top 99.7 and 99.6 %).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from builders.coreml.interface import (
    CAUSAL_MASK,
    INPUT_IDS,
    KEY_CACHE,
    LOGITS,
    LONG_FACTORS,
    POSITION,
    VALUE_CACHE,
    cache_shape,
)
from builders.coreml.positions import Call, write_call, write_fixed_call
from builders.coreml.weights import Weights
from builders.reference.forward import QUICK_GELU
from targets.architecture import Architecture

HIDDEN_LOGIT = np.float16(-30000)  # added to ids that must never be chosen: finite, and a probability of 0


def float16_constants(architecture: Architecture) -> dict[str, float]:
    """Return the numbers that the program holds in float16, by name; of a limit that clamps nothing, the largest."""
    found = {"the scale of attention's scores, of the usual one": _score_share(architecture)}
    if architecture.logit_divisor != 1:
        found["1 / mup_width_multiplier"] = 1 / architecture.logit_divisor
    if architecture.gegelu_limit is not None:
        found["gegelu_limit"] = min(architecture.gegelu_limit, float(np.finfo(np.float16).max))
    return found


def _score_share(architecture: Architecture) -> float:
    """Return the architecture's scale of scores as a share of attention's own, d ** -0.5."""
    return float(architecture.score_scale * architecture.head_dim**0.5)


def write_program(
    architecture: Architecture, context_length: int, functions: Mapping[str, tuple[int | None, Weights]]
) -> Any:
    """Return the `mil.Program`.

    `functions`: by name, the length of its calls (`call_lengths`) and what creates its constants, which hold no data
    until the package is written. A variable belongs to one function, so each has `Weights` of its own.
    """
    from coremltools.converters.mil.mil import Program

    program = Program()
    for name, (length, weights) in functions.items():
        program.add_function(name, _function(architecture, context_length, length, weights))
    return program


def _function(architecture: Architecture, context_length: int, length: int | None, weights: Weights) -> Any:
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder, Function, types

    inputs = _inputs(architecture, context_length, length)
    for name in (KEY_CACHE, VALUE_CACHE):
        inputs[name] = Builder.state_tensor_placeholder(cache_shape(architecture, context_length), types.fp16)
    with _names_from_zero(Builder), Function(inputs, opset_version=ct.target.iOS18) as function:
        given = function.inputs
        if length is None:
            call = write_call(Builder, architecture, context_length, given[INPUT_IDS], given[CAUSAL_MASK])
        else:
            positions = given[POSITION], given.get(LONG_FACTORS)
            call = write_fixed_call(Builder, architecture, context_length, length, positions)
        decoder = _Decoder(architecture, weights, call, (given[KEY_CACHE], given[VALUE_CACHE]))
        function.set_outputs([decoder.write(given[INPUT_IDS])])
    return function


def _inputs(architecture: Architecture, context_length: int, length: int | None) -> dict[str, Any]:
    """Return the placeholders of a function's inputs, without its states."""
    from coremltools.converters.mil.mil import Builder, get_new_symbol, types

    if length is None:
        return {
            INPUT_IDS: Builder.placeholder((1, get_new_symbol()), types.int32),
            CAUSAL_MASK: Builder.placeholder((1, 1, get_new_symbol(), get_new_symbol()), types.fp16),
        }
    numbers = [POSITION] if architecture.longrope_edge(context_length) is None else [POSITION, LONG_FACTORS]
    inputs = {INPUT_IDS: Builder.placeholder((1, length), types.int32)}
    return inputs | {name: Builder.placeholder((1,), types.int32) for name in numbers}


@contextmanager
def _names_from_zero(builder: Any) -> Iterator[None]:
    """Number generated names from 0: coremltools goes on counting from program to program, and names are bytes."""
    counted = builder.name_count
    builder.name_count = type(counted)(int)
    try:
        yield
    finally:
        builder.name_count = counted


class _Decoder:
    """Writes the layers. Methods take and return MIL variables."""

    def __init__(self, architecture: Architecture, weights: Weights, call: Call, states: tuple[Any, Any]) -> None:
        from coremltools.converters.mil.mil import Builder

        self._mb = Builder
        self._architecture = architecture
        self._weights = weights
        self._call = call
        self._states = dict(zip((KEY_CACHE, VALUE_CACHE), states, strict=True))
        self._caches = {name: Builder.read_state(input=state) for name, state in self._states.items()}

    def write(self, ids: Any) -> Any:
        """Write all layers: ids [1, q] in, logits [1, q, vocabulary] float16 out."""
        mb, architecture = self._mb, self._architecture
        embedding = self._weights.matrix("model.embed_tokens.weight")
        stream = self._wide(mb.gather(x=embedding, indices=ids, axis=0, name="embedded"))
        if architecture.embedding_multiplier != 1:
            stream = mb.mul(x=stream, y=np.float32(architecture.embedding_multiplier), name="stream")
        for layer in range(architecture.layer_count):
            stream = self._attention(stream, layer)
            stream = self._mlp(stream, layer)
        normed = self._norm(stream, "model.norm")
        if architecture.logit_divisor != 1:  # here, where there are fewer numbers and none can overflow
            normed = mb.mul(x=normed, y=np.float16(1 / architecture.logit_divisor), name="scaled_down")
        if not architecture.hidden_token_ids:
            return self._product(normed, architecture.head_tensor, LOGITS)
        hidden = np.zeros(architecture.vocabulary_size, np.float16)
        hidden[list(architecture.hidden_token_ids)] = HIDDEN_LOGIT
        return mb.add(x=self._product(normed, architecture.head_tensor, "all_logits"), y=hidden, name=LOGITS)

    def _wide(self, x: Any) -> Any:
        return self._mb.cast(x=x, dtype="fp32", name=x.name + "_wide")

    def _narrow(self, x: Any) -> Any:
        return self._mb.cast(x=x, dtype="fp16", name=x.name + "_narrow")

    def _product(self, x: Any, tensor: str, name: str) -> Any:
        """Multiply [1, q, in] with a matrix [out, in], and add its bias where it has one: [1, q, out] float16."""
        matrix = self._weights.matrix(tensor)
        return self._mb.linear(x=x, weight=matrix, bias=self._weights.bias_of(tensor), name=name)

    def _attention(self, stream: Any, layer: int) -> Any:
        """One layer's attention: stream [1, q, hidden] float32 in and out."""
        mb, architecture = self._mb, self._architecture
        checkpoint, prefix = f"model.layers.{layer}.", f"layer{layer}_"
        heads, kv_heads, size = architecture.head_count, architecture.kv_head_count, architecture.head_dim
        normed = self._norm(stream, checkpoint + "input_layernorm")
        qkv = self._product(normed, checkpoint + "self_attn.qkv_proj.weight", prefix + "qkv")
        all_heads = mb.reshape(x=qkv, shape=[1, -1, heads + 2 * kv_heads, size], name=prefix + "heads")
        rotated, values = mb.split(x=all_heads, split_sizes=[heads + kv_heads, kv_heads], axis=2)
        queries, keys = mb.split(x=self._rotated(rotated), split_sizes=[heads, kv_heads], axis=2)
        attended = mb.scaled_dot_product_attention(
            query=self._grouped(self._scaled(queries)),
            key=self._cached(KEY_CACHE, keys, layer),
            value=self._cached(VALUE_CACHE, values, layer),
            attn_mask=self._mask(layer),
            name=prefix + "attended",
        )
        output = self._product(self._ungrouped(attended), checkpoint + "self_attn.o_proj.weight", prefix + "attention")
        return mb.add(x=stream, y=self._wide(output), name=prefix + "after_attention")

    def _mlp(self, stream: Any, layer: int) -> Any:
        """One layer's gated products: stream [1, q, hidden] float32 in and out."""
        mb, width = self._mb, self._architecture.intermediate_size
        checkpoint, prefix = f"model.layers.{layer}.", f"layer{layer}_"
        normed = self._norm(stream, checkpoint + "post_attention_layernorm")
        both = self._product(normed, checkpoint + "mlp.gate_up_proj.weight", prefix + "gate_up")
        gate, up = mb.split(x=both, split_sizes=[width, width], axis=-1)
        inner = self._gated(gate, up, prefix + "inner")
        output = self._product(inner, checkpoint + "mlp.down_proj.weight", prefix + "mlp")
        return mb.add(x=stream, y=self._wide(output), name=prefix + "output")

    def _mask(self, layer: int) -> Any:
        sparse, call = self._architecture.block_sparse, self._call
        is_sparse = sparse is not None and sparse.is_sparse(layer) and call.sparse_mask is not None
        return call.sparse_mask if is_sparse else call.mask

    def _scaled(self, queries: Any) -> Any:
        """Scale queries where the architecture's scale differs from attention's own, d ** -0.5."""
        share = _score_share(self._architecture)
        return queries if math.isclose(share, 1) else self._mb.mul(x=queries, y=np.float16(share))

    def _gated(self, gate: Any, up: Any, name: str) -> Any:
        """SwiGLU, or Phi-3-small's GEGLU (targets/architecture.py)."""
        mb, limit = self._mb, self._architecture.gegelu_limit
        if limit is None:
            return mb.mul(x=mb.silu(x=gate), y=up, name=name)
        gate = mb.minimum(x=gate, y=np.float16(limit))
        up = mb.clip(x=up, alpha=np.float16(-limit), beta=np.float16(limit))
        active = mb.mul(x=gate, y=mb.sigmoid(x=mb.mul(x=gate, y=np.float16(QUICK_GELU))))
        return mb.mul(x=active, y=mb.add(x=up, y=np.float16(1)), name=name)

    def _norm(self, stream: Any, stem: str) -> Any:
        """LayerNorm or RMSNorm of [1, q, hidden] float32, in float16 for the matrix that follows."""
        mb, epsilon = self._mb, np.float32(self._architecture.norm_epsilon)
        weight = self._weights.vector(f"{stem}.weight")
        if self._architecture.biased:
            bias = self._weights.vector(f"{stem}.bias")
            return self._narrow(mb.layer_norm(x=stream, axes=[-1], gamma=weight, beta=bias, epsilon=epsilon))
        mean = mb.reduce_mean(x=mb.square(x=stream), axes=[-1], keep_dims=True)
        return self._narrow(mb.mul(x=mb.mul(x=stream, y=mb.rsqrt(x=mean, epsilon=epsilon)), y=weight))

    def _rotated(self, heads: Any) -> Any:
        """Rotate the pairs (i, i + r / 2) of heads [1, q, any, d] float16 by the tokens' positions.

        r is the architecture's `rotary_dim`; elements from r on keep their values.
        """
        mb, cosines, sines = self._mb, self._call.cosines, self._call.sines
        half = self._architecture.rotary_dim // 2
        rest = self._architecture.head_dim - 2 * half
        first, second, *kept = mb.split(x=heads, split_sizes=[half, half, *([rest] if rest else [])], axis=-1)
        turned = [
            mb.sub(x=mb.mul(x=first, y=cosines), y=mb.mul(x=second, y=sines)),
            mb.add(x=mb.mul(x=second, y=cosines), y=mb.mul(x=first, y=sines)),
        ]
        return mb.concat(values=[*turned, *kept], axis=-1)

    def _cached(self, name: str, new: Any, layer: int) -> Any:
        """Put new heads [1, q, K, d] into a layer of a cache, and return its first n positions [1, K, n, d]."""
        mb, call = self._mb, self._call
        new = mb.expand_dims(x=mb.transpose(x=new, perm=[0, 2, 1, 3]), axes=[0])
        of_layer = [False, True, True, False, True]  # which axes are taken whole
        updated = mb.slice_update(
            x=self._caches[name],
            update=new,
            begin=self._corner(layer, call.start),
            end=self._corner(layer + 1, call.end),
            begin_mask=of_layer,
            end_mask=of_layer,
        )
        self._caches[name] = mb.coreml_update_state(state=self._states[name], value=updated)
        return mb.slice_by_index(
            x=self._caches[name],
            begin=np.array([layer, 0, 0, 0, 0], np.int32),
            end=self._corner(layer + 1, call.attended),
            begin_mask=[False, True, True, True, True],
            end_mask=of_layer,
            squeeze_mask=[True, False, False, False, False],
            name=f"layer{layer}_{name}",
        )

    def _corner(self, layer: int, position: Any) -> Any:
        """Return indices [5] into a cache, of which only layer and position count."""
        whole = np.zeros(1, np.int32)
        if isinstance(position, np.ndarray):
            return np.concatenate([np.array([layer, 0, 0], np.int32), position, whole])
        return self._mb.concat(values=[np.array([layer, 0, 0], np.int32), position, whole], axis=0)

    def _grouped(self, queries: Any) -> Any:
        """[1, q, K g, d] to [1, K, g q, d]: heads that share a key become rows."""
        mb, architecture = self._mb, self._architecture
        kv_heads, group = architecture.kv_head_count, architecture.head_count // architecture.kv_head_count
        if group == 1:
            return mb.transpose(x=queries, perm=[0, 2, 1, 3])
        apart = mb.reshape(x=queries, shape=[1, -1, kv_heads, group, architecture.head_dim])
        together = mb.transpose(x=apart, perm=[0, 2, 3, 1, 4])
        return mb.reshape(x=together, shape=[1, kv_heads, -1, architecture.head_dim])

    def _ungrouped(self, attended: Any) -> Any:
        """[1, K, g q, d] to [1, q, K g d]."""
        mb, architecture = self._mb, self._architecture
        kv_heads, group = architecture.kv_head_count, architecture.head_count // architecture.kv_head_count
        if group == 1:
            by_token = mb.transpose(x=attended, perm=[0, 2, 1, 3])
        else:
            apart = mb.reshape(x=attended, shape=[1, kv_heads, group, -1, architecture.head_dim])
            by_token = mb.transpose(x=apart, perm=[0, 3, 1, 2, 4])
        return mb.reshape(x=by_token, shape=[1, -1, architecture.query_width])
