"""The package's interface as Core ML shows it to apps: inputs, states and outputs, their shapes, and what they mean.

Names and shapes are those of Apple's own Llama-3.1 package, which swift-transformers looks for:

    inputIds    int32    [1, q]           input: the q new tokens, 1 or more: a prompt, then one token at a time
    causalMask  float16  [1, 1, 1 or q, n]   input: n is the length of the sequence after the call. Zeros are enough
    keyCache    float16  [layers, 1, key heads, context, head size]   state
    valueCache  float16  the same         state
    logits      float16  [1, q, vocabulary]   output: after each new token

An app makes a state, and calls with q tokens and a mask of zeros of width n = tokens before + q. The positions of the
tokens follow from n - q. The program itself hides the future and what is behind the sliding window; the mask's values
are added to the scores, so an app can hide more (-inf). Only the shapes of the two inputs change from call to call, and
no shape depends on a value. A state is one sequence; to take tokens back, call with a smaller n.

longrope: where the context is longer than the original one, the metadata has `phipack.longrope_edge`, the longest
sequence that takes the short factors. The call that passes it must take the whole sequence (q = n), since everything
that was cached belongs to the other factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builders.coreml.program import CAUSAL_MASK, INPUT_IDS, KEY_CACHE, LOGITS, VALUE_CACHE, cache_shape
from targets.architecture import Architecture
from targets.recipes import Recipe

EDGE_FACT = "phipack.longrope_edge"  # metadata: the longest sequence in tokens that takes the short factors
_MEANINGS = {
    INPUT_IDS: "The q new tokens, 1 or more. The first call of a sequence takes the prompt.",
    CAUSAL_MASK: (
        "Its last dimension is n, the length of the sequence after this call: tokens cached plus q. Zeros are enough: "
        "the program itself hides the future and what lies behind the sliding window. Its values are added to the "
        "scores, so -inf hides more; its third dimension is 1 or q."
    ),
    KEY_CACHE: "Keys of the tokens so far, by layer, head and position.",
    VALUE_CACHE: "Values of the tokens so far, by layer, head and position.",
    LOGITS: "Scores of every token of the vocabulary as the next one, after each of the q tokens.",
}


def describe(architecture: Architecture, recipe: Recipe, context_length: int) -> Any:
    """Return the `ModelDescription` (protobuf) of a program of `write_program`."""
    import coremltools as ct

    kinds = ct.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    description = ct.proto.Model_pb2.ModelDescription()
    any_length = (1, context_length)
    for name, kind, ranges in (
        (INPUT_IDS, kinds.INT32, [(1, 1), any_length]),
        (CAUSAL_MASK, kinds.FLOAT16, [(1, 1), (1, 1), any_length, any_length]),
    ):
        feature = description.input.add(name=name, shortDescription=_MEANINGS[name])
        _set_array(feature.type.multiArrayType, kind, ranges)
    for name in (KEY_CACHE, VALUE_CACHE):
        state = description.state.add(name=name, shortDescription=_MEANINGS[name])
        array = state.type.stateType.arrayType
        array.shape.extend(cache_shape(architecture, context_length))
        array.dataType = kinds.FLOAT16
    logits = description.output.add(name=LOGITS, shortDescription=_MEANINGS[LOGITS])
    logits.type.multiArrayType.dataType = kinds.FLOAT16
    description.metadata.shortDescription = (
        f"{architecture.name}, {architecture.layer_count} layers, {recipe.summary}. "
        f"Sequences of up to {context_length} tokens; one sequence a state."
    )
    description.metadata.userDefined["phipack.recipe"] = recipe.name
    description.metadata.userDefined["phipack.context_length"] = str(context_length)
    edge = architecture.longrope_edge(context_length)
    if edge is not None:
        description.metadata.userDefined[EDGE_FACT] = str(edge)
    return description


def _set_array(array: Any, kind: int, ranges: Sequence[tuple[int, int]]) -> None:
    """Set the shape of an input: the shortest by default, and the range of each dimension."""
    array.dataType = kind
    array.shape.extend(low for low, _ in ranges)
    for low, high in ranges:
        array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
