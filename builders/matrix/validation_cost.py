"""How many processor seconds a validation takes, by what it reads and writes (`builders/validation/amounts.py`).

The constants are those of x86-64 cores with AVX2. They were chosen on six runs that docs/validation.md names ("What a
validation costs"), where estimates of other runs are held against what was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from builders.validation.amounts import Amounts, Validation
from builders.validation.speed import NEW_TOKENS, PROMPT_TOKENS
from targets.architecture import Architecture
from targets.recipes import Format

# Seconds for a token and parameter that it is multiplied with; for the head, where a distribution is computed.
READ_BY_REFERENCE = 3.4e-11
_READ: Mapping[Format, float] = {"gguf": 2.0e-11, "onnx": 2.0e-11, "coreml": 3.4e-11}
_WRITTEN_TOGETHER, _WRITTEN_ALONE = 4.4e-11, 6.7e-11  # in llama.cpp and onnxruntime, which read all weights each time
# Seconds for a token, token before it, layer and element of the queries.
_ATTENTION_OF_REFERENCE, _ATTENTION = 9e-11, 1.7e-10
# Seconds for a token and entry of the vocabulary: two distributions in float64; the likeliest of one.
_COMPARED, _LIKELIEST = 8e-8, 1e-7
# Of a token that the reference writes: it reads about half as many more that are wrong, and a layer has its overhead.
_READ_FOR_EACH_WRITTEN, _WRITTEN_LAYER_SECONDS = 1.5, 4.5e-4
# Answers end before the most that they may have: the share of it that SmolLM2's have.
_WRITTEN_SHARE = 0.7
# A step of an evaluated Core ML program: a layer, and a parameter, which is decompressed once for all prompts.
_STEP_LAYER_SECONDS, _STEP_PARAMETER_SECONDS = 0.02, 2.1e-9
# Whatever is read: starting and opening; hashing the checkpoint, a parameter; the oracle, and a parameter that it
# reads; the behaviour suite's texts and rounded weights.
_START_SECONDS, _HASHED_SECONDS = 8.0, 5e-9
_ORACLE_SECONDS, _ORACLE_PARAMETER_SECONDS, _ORACLE_LAYERS = 3.5, 1.8e-8, 2
_SUITE_SECONDS, _ROUNDED_SECONDS = 3.0, 6e-9
_SPEED_SECONDS, _SPEED_RUNS = 1.5, 5  # of three to nine


def validation_seconds(validation: Validation, amounts: Amounts) -> float:
    """Estimate a validation's processor seconds. `amounts`: what it reads and writes."""
    architecture, format_ = validation.architecture, validation.recipe.format
    found = _START_SECONDS + _HASHED_SECONDS * architecture.parameter_count + _oracle_seconds(architecture)
    if validation.settings.suite != "accuracy":
        found += _SUITE_SECONDS + _ROUNDED_SECONDS * architecture.parameter_count
    layers, head = _layer_parameters(architecture), _head_parameters(architecture)
    found += reference_seconds(architecture, amounts.reference)
    found += _read_seconds(architecture, amounts.bundle, _READ[format_], _ATTENTION)
    found += amounts.compared * (head * (READ_BY_REFERENCE + _READ[format_]) + _COMPARED * architecture.vocabulary_size)
    of_reference = READ_BY_REFERENCE * (_READ_FOR_EACH_WRITTEN * layers + head)
    of_reference += _WRITTEN_LAYER_SECONDS * architecture.layer_count
    found += _WRITTEN_SHARE * amounts.written_by_reference * of_reference
    if not validation.is_own_runtime:
        a_step = _STEP_LAYER_SECONDS * architecture.layer_count + _STEP_PARAMETER_SECONDS * (layers + head)
        return found + amounts.steps * a_step
    of_bundle = _WRITTEN_TOGETHER * (layers + head) + _LIKELIEST * architecture.vocabulary_size
    return found + _WRITTEN_SHARE * amounts.written * of_bundle + _speed_seconds(architecture, format_)


def reference_seconds(architecture: Architecture, sequences: Counter[int]) -> float:
    """Estimate the processor seconds that the reference takes to read sequences, of these lengths."""
    return _read_seconds(architecture, sequences, READ_BY_REFERENCE, _ATTENTION_OF_REFERENCE)


def _read_seconds(architecture: Architecture, sequences: Counter[int], rate: float, attention: float) -> float:
    """Estimate what reading sequences takes, of these lengths: all but the head."""
    own = rate * _layer_parameters(architecture)
    seen = attention * architecture.layer_count * architecture.query_width
    return sum(count * length * (own + seen * length / 2) for length, count in sequences.items())


def _oracle_seconds(architecture: Architecture) -> float:
    layers = _ORACLE_LAYERS * _layer_parameters(architecture) / architecture.layer_count
    embedding = architecture.vocabulary_size * architecture.hidden_size
    return _ORACLE_SECONDS + _ORACLE_PARAMETER_SECONDS * (layers + embedding + _head_parameters(architecture))


def _speed_seconds(architecture: Architecture, format_: Format) -> float:
    parameters = _layer_parameters(architecture) + _head_parameters(architecture)
    read = (_SPEED_RUNS + 1) * PROMPT_TOKENS * _READ[format_]
    return _SPEED_SECONDS + parameters * (read + _SPEED_RUNS * NEW_TOKENS * _WRITTEN_ALONE)


def _layer_parameters(architecture: Architecture) -> int:
    shapes = architecture.tensor_shapes()
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("model.layers."))


def _head_parameters(architecture: Architecture) -> int:
    return architecture.vocabulary_size * architecture.hidden_size
