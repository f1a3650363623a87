"""The package's interface as Core ML shows it to apps: functions, inputs, states, outputs, shapes, and what they mean.

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

**In fixed shapes** (`Recipe.fixed_shapes`) the package has two functions with the same weights. `main`, the default,
takes one token, and `prompt` takes `phipack.prompt_chunk` of them (metadata; 64, or the context where that is shorter):

    inputIds    int32    [1, 1] or [1, chunk]   input: the new tokens
    position    int32    [1]              input: how many tokens the cache has before this call
    longFactors int32    [1]              input where the metadata has an edge: 1 for longrope's long factors, else 0
    keyCache, valueCache, logits          as above, with q = 1 or q = chunk

An app loads both functions, makes one state, and calls them with it. A prompt is read in chunks. Its last one is filled
up with any ids: what they write lies behind the sequence, where no token looks, and the next call overwrites it; their
logits mean nothing. A chunk must fit: where fewer than `chunk` positions are left before the context's end, the rest is
read one token at a time. The cache has no spare positions for this, so that a context takes the memory that it takes in
all packages. To take tokens back, call with a smaller position.

longFactors must be 1 in every call of a sequence that is longer than the edge, from its beginning. One that grows past
the edge is read again from position 0.

Why two functions, and not one whose `inputIds` has two enumerated shapes: each then has constant shapes throughout,
which is what runs on the Neural Engine. Enumerated shapes may run there as well, by Apple's documentation, but not with
every operation (coremltools' issues 1909 and 2370), and some can't be called at all (2730). ANEMLL and ExecuTorch have
the same two functions.
"""

from __future__ import annotations

from typing import Any

from builders.coreml.interface import (
    CAUSAL_MASK,
    CHUNK_FACT,
    CONTEXT_FACT,
    EDGE_FACT,
    INPUT_IDS,
    KEY_CACHE,
    LOGITS,
    LONG_FACTORS,
    MAIN,
    POSITION,
    PROMPT,
    RECIPE_FACT,
    VALUE_CACHE,
    cache_shape,
    call_lengths,
)
from targets.architecture import Architecture
from targets.recipes import Recipe

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
_FIXED_MEANINGS = _MEANINGS | {
    INPUT_IDS: (
        "The new tokens. The last chunk of a prompt is filled up with any ids; their logits mean nothing, and the next "
        "call overwrites what they write. A chunk must end within the context."
    ),
    POSITION: "How many tokens the cache has before this call.",
    LONG_FACTORS: (
        f"1 where the sequence is longer than {EDGE_FACT}, else 0. "
        "One that grows past it is read again from position 0."
    ),
    LOGITS: "Scores of every token of the vocabulary as the next one, after each new token.",
}


def describe(architecture: Architecture, recipe: Recipe, context_length: int) -> Any:
    """Return the `ModelDescription` (protobuf) of a program of `write_program`."""
    import coremltools as ct

    description = ct.proto.Model_pb2.ModelDescription()
    lengths = call_lengths(recipe, context_length)
    for name, length in lengths.items():
        if length is None:
            _describe_ranges(description, architecture, context_length)
            continue
        function = description.functions.add(name=name)
        _describe_fixed(function, architecture, context_length, length)
        description.defaultFunctionName = MAIN
    description.metadata.shortDescription = (
        f"{architecture.name}, {architecture.layer_count} layers, {recipe.summary}. "
        f"Sequences of up to {context_length} tokens; one sequence a state."
    )
    facts = description.metadata.userDefined
    facts[RECIPE_FACT], facts[CONTEXT_FACT] = recipe.name, str(context_length)
    if (chunk := lengths.get(PROMPT)) is not None:
        facts[CHUNK_FACT] = str(chunk)
    edge = architecture.longrope_edge(context_length)
    if edge is not None:
        facts[EDGE_FACT] = str(edge)
    return description


def _describe_ranges(description: Any, architecture: Architecture, context_length: int) -> None:
    """Describe the inputs, states and outputs of a function whose calls differ in length: from 1 token by default."""
    kinds, any_length = _kinds(), (1, context_length)
    for name, kind, ranges in (
        (INPUT_IDS, kinds.INT32, [(1, 1), any_length]),
        (CAUSAL_MASK, kinds.FLOAT16, [(1, 1), (1, 1), any_length, any_length]),
    ):
        array = _add_input(description, name, kind, tuple(low for low, _ in ranges), _MEANINGS)
        for low, high in ranges:
            array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    _add_states(description, architecture, context_length)
    logits = description.output.add(name=LOGITS, shortDescription=_MEANINGS[LOGITS])
    logits.type.multiArrayType.dataType = kinds.FLOAT16


def _describe_fixed(function: Any, architecture: Architecture, context_length: int, length: int) -> None:
    """Describe the inputs, states and outputs of a function in fixed shapes (`FunctionDescription`)."""
    kinds = _kinds()
    _add_input(function, INPUT_IDS, kinds.INT32, (1, length), _FIXED_MEANINGS)
    _add_input(function, POSITION, kinds.INT32, (1,), _FIXED_MEANINGS)
    if architecture.longrope_edge(context_length) is not None:
        _add_input(function, LONG_FACTORS, kinds.INT32, (1,), _FIXED_MEANINGS)
    _add_states(function, architecture, context_length)
    logits = function.output.add(name=LOGITS, shortDescription=_FIXED_MEANINGS[LOGITS])
    logits.type.multiArrayType.dataType = kinds.FLOAT16
    logits.type.multiArrayType.shape.extend((1, length, architecture.vocabulary_size))


def _kinds() -> Any:
    import coremltools as ct

    return ct.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType


def _add_input(described: Any, name: str, kind: int, shape: tuple[int, ...], meanings: dict[str, str]) -> Any:
    """Add an input, and return its array's type."""
    array = described.input.add(name=name, shortDescription=meanings[name]).type.multiArrayType
    array.dataType = kind
    array.shape.extend(shape)
    return array


def _add_states(described: Any, architecture: Architecture, context_length: int) -> None:
    for name in (KEY_CACHE, VALUE_CACHE):
        array = described.state.add(name=name, shortDescription=_MEANINGS[name]).type.stateType.arrayType
        array.shape.extend(cache_shape(architecture, context_length))
        array.dataType = _kinds().FLOAT16
