"""What jobs are estimated to need. Constants with their sources; rates that jobs have recorded replace them.

An estimate is processor seconds, spread over two cores: as long as a job takes where nothing else runs and no disk is
waited for. An amount says the same in a unit of work, so that a job's recorded seconds for each unit hold for other
models and settings. What a validation takes is in `validation_cost.py`.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from builders.matrix.graph import Kind, Needs
from builders.matrix.validation_cost import READ_BY_REFERENCE, reference_seconds, validation_seconds
from builders.quantization.calibration.moments import moment_bytes
from builders.quantization.calibration.special_tokens import LENGTH as SPECIAL_LENGTH
from builders.quantization.calibration.text import TOKENS, WINDOW
from builders.quantization.calibration.walks import CalibrationWalk
from builders.validation.amounts import Validation
from registry.store.actions import read_record, record_names
from registry.store.protocol import Store
from targets.architecture import Architecture
from targets.calibration import Calibration, labelled
from targets.fit import memory_bytes
from targets.recipes import Recipe

RECORDS_READ = 50  # of each kind: a request each
_MINI = 3.82e9  # parameters of Phi-3-mini, of which whole runs are known

CORES = 2  # on which an estimate's processor seconds are spread
# Recipe -> processor seconds a parameter; and what starting and loading takes. Source: builds of the first two layers
# of mini's shapes; Core ML's four bits: of four; Q4_K_M, Q4_0 and ONNX's four bits: of all of mini, too
# (docs/benchmarks/full-size.md). An estimate, not a run: onnx-int8, as gguf-q8_0.
BUILD_RATES: Mapping[str, float] = {
    "gguf-f16": 8.0e-9,
    "gguf-q8_0": 9.5e-9,
    "gguf-q6_k": 1.65e-8,
    "gguf-q5_k_m": 1.77e-8,
    "gguf-q4_k_m": 1.65e-8,
    "gguf-iq4_nl": 3.2e-8,
    "gguf-q4_0": 7.5e-9,
    "gguf-q3_k_m": 2.6e-8,
    "onnx-fp16": 6.5e-9,
    "onnx-int8": 9.5e-9,
    "onnx-int4": 8.0e-9,
    "coreml-fp16": 7.0e-9,
    "coreml-int4": 1.05e-8,
    "coreml-palettized4": 7.8e-8,
}
BUILD_START_SECONDS = 4.0
_COREML_LAYER_SECONDS = 0.12  # of a program, which is written operation by operation
# Calibration -> processor seconds a parameter that its rounding adds. light: about that of mini in six GGUF recipes; in
# other formats its searches take as long as without. full: a quarter of the 5,019 of mini's onnx-int4.
ROUNDING_RATES: Mapping[Calibration, float] = {"none": 0.0, "light": 0.8e-8, "full": 1300 / _MINI}
# Of the tokens that a walk reads: those of `full` are multiplied with one another, too.
WALK_SHARES: Mapping[Calibration, float] = {"none": 0.0, "light": 1.0, "full": 1.8}
_WALK_START_SECONDS = 5.0
# A build holds a few tensors; the largest is the embedding, in float32. Fitted to the peaks of full-size.md: mini's
# embedding has 0.39 GB, small's 1.64, Phi-4-mini's 2.46; peaks 0.72, 2.5 and 4.0 GB; Core ML 0.45 GB more.
_BUILD_BASE_BYTES, _BUILD_EMBEDDING_SHARE = 250_000_000, 1.5
_COREML_BYTES = 450_000_000
_SENSITIVITY_MATRICES = 4  # of a layer, each of which has states of its own in all layers after it
# Sequences of special tokens (builders/quantization/calibration/special_tokens.py), by length: of some 20 tokens.
_SPECIAL_TOKENS_READ = Counter({SPECIAL_LENGTH: 40})
_WALK_BASE_BYTES = 500_000_000  # torch and what a few sequences take on their way; assumed
_SENSITIVITY_TOKENS = 512  # builders/quantization/sensitivity_cache.py
_ORACLE_BYTES = 2_800_000_000  # docs/validation.md, mini


@dataclass(frozen=True)
class Rates:
    """Seconds for one unit of work: recorded ones by kind and recipe, where there are any."""

    recorded: Mapping[tuple[str, str], float]

    def seconds(self, kind: Kind, recipe: str, amount: float, default: float) -> float:
        """Estimate a job's seconds by what such jobs have recorded; `default` where none has."""
        rate = self.recorded.get((kind, recipe))
        return default if rate is None else amount * rate


def read_rates(store: Store) -> Rates:
    """Return rates with the medians of what up to `RECORDS_READ` jobs of each kind have recorded."""
    found: dict[tuple[str, str], list[float]] = {}
    kinds: tuple[Kind, ...] = ("calibrate", "build", "validate")
    for kind in kinds:
        for name in islice(record_names(store, kind), RECORDS_READ):
            record = read_record(store, name)
            if record is not None and record.amount > 0 and record.seconds > 0:
                found.setdefault((kind, record.recipe), []).append(record.seconds / record.amount)
    return Rates({key: statistics.median(rates) for key, rates in found.items()})


def rate_label(recipe: str, calibration: Calibration, has_budget: bool) -> str:
    """Return the name under which a build's rate is recorded. All budgets of a recipe have one rate."""
    return labelled(recipe, calibration, "budget" if has_budget else "")


def walk_amount(architecture: Architecture, walk: CalibrationWalk) -> float:
    """Return how much work a calibration is, in parameters x tokens that the reference reads."""
    return _walk_seconds(architecture, walk) * CORES / READ_BY_REFERENCE


def _walk_seconds(architecture: Architecture, walk: CalibrationWalk) -> float:
    if walk.special_tokens:
        return (_WALK_START_SECONDS + reference_seconds(architecture, _SPECIAL_TOKENS_READ)) / CORES
    if walk.blocks is None:
        read = Counter({WINDOW: TOKENS[walk.level] // WINDOW})
        return (_WALK_START_SECONDS + WALK_SHARES[walk.level] * reference_seconds(architecture, read)) / CORES
    sequences = 1 + _SENSITIVITY_MATRICES * architecture.layer_count // 2
    read = Counter({_SENSITIVITY_TOKENS: sequences})
    return (_WALK_START_SECONDS + reference_seconds(architecture, read)) / CORES


def walk_needs(rates: Rates, architecture: Architecture, walk: CalibrationWalk) -> Needs:
    """Estimate what a calibration needs. What it measures stays in the cache's folder."""
    default = _walk_seconds(architecture, walk)
    return Needs(
        memory_bytes=_walk_bytes(architecture, walk.level) + _states_bytes(architecture, walk),
        disk_bytes=moment_bytes(architecture) if walk.level == "full" else 0,
        seconds=rates.seconds("calibrate", walk.label, walk_amount(architecture, walk), default),
    )


def build_amount(architecture: Architecture, recipe: Recipe, calibration: Calibration) -> float:
    """Return how much work a build is, in parameters that are stored without a calibration."""
    return _build_seconds(architecture, recipe, calibration) * CORES / BUILD_RATES[recipe.name]


def _build_seconds(architecture: Architecture, recipe: Recipe, calibration: Calibration) -> float:
    rate = BUILD_RATES[recipe.name]
    if calibration == "full" or recipe.format == "gguf":
        rate += ROUNDING_RATES[calibration]
    start = BUILD_START_SECONDS + _COREML_LAYER_SECONDS * architecture.layer_count * (recipe.format == "coreml")
    return (start + rate * architecture.parameter_count) / CORES


def validation_amount(validation: Validation) -> float:
    """Return how much work a validation is, in parameters x tokens that the reference reads.

    Raises:
        MeasurementError: a folder of tasks or prompts has no files, or a line is malformed.
    """
    return _validation_seconds(validation) * CORES / READ_BY_REFERENCE


def _validation_seconds(validation: Validation) -> float:
    return validation_seconds(validation, validation.amounts()) / CORES


def build_needs(
    rates: Rates, architecture: Architecture, recipe: Recipe, bundle_bytes: int, calibration: Calibration
) -> Needs:
    """Estimate what a build needs after its calibration. Its bundle lies in the work folder until the store has it."""
    embedding = 4 * architecture.vocabulary_size * architecture.hidden_size
    memory = _BUILD_BASE_BYTES + _BUILD_EMBEDDING_SHARE * embedding + _COREML_BYTES * (recipe.format == "coreml")
    amount = build_amount(architecture, recipe, calibration)
    default = _build_seconds(architecture, recipe, calibration)
    seconds = rates.seconds("build", rate_label(recipe.name, calibration, recipe.budget is not None), amount, default)
    if calibration == "full":
        memory += _layer_moments(architecture)
    if recipe.has_scaled_cache:
        memory = max(memory, _walk_bytes(architecture, "light"))
        seconds += _special_token_seconds(rates, architecture)
    disk = bundle_bytes + (moment_bytes(architecture) if calibration == "full" else 0)
    return Needs(memory_bytes=int(memory), disk_bytes=disk, seconds=seconds)


def _special_token_seconds(rates: Rates, architecture: Architecture) -> float:
    """Estimate the walk over special tokens, for a KV cache with scales: `light`'s, with other sequences."""
    seconds = _WALK_START_SECONDS + WALK_SHARES["light"] * reference_seconds(architecture, _SPECIAL_TOKENS_READ)
    default = seconds / CORES
    return rates.seconds("calibrate", "light", default * CORES / READ_BY_REFERENCE, default)


def _walk_bytes(architecture: Architecture, calibration: Calibration) -> int:
    """Estimate the memory of the float32 walk: a layer's weights, hidden states twice, a layer's moments for `full`."""
    in_layers = (shape for name, shape in architecture.tensor_shapes().items() if name.startswith("model.layers."))
    weights = 4 * sum(math.prod(shape) for shape in in_layers) // architecture.layer_count
    states = 2 * 4 * architecture.hidden_size * TOKENS[calibration]
    moments = _layer_moments(architecture) if calibration == "full" else 0
    return _WALK_BASE_BYTES + weights + states + moments


def _layer_moments(architecture: Architecture) -> int:
    """Estimate the memory of a layer's moments, as whole matrices."""
    return 2 * moment_bytes(architecture) // architecture.layer_count


def _states_bytes(architecture: Architecture, walk: CalibrationWalk) -> int:
    """Return the memory of the states of each matrix, of a walk that measures sensitivities."""
    if walk.blocks is None:
        return 0
    matrices = sum(len(shape) == 2 for shape in architecture.tensor_shapes().values())
    return 4 * architecture.hidden_size * _SENSITIVITY_TOKENS * matrices


def validation_needs(rates: Rates, validation: Validation, bundle_bytes: int) -> Needs:
    """Estimate what a validation needs: its bundle on disk, and in memory with a full context, or the oracle.

    Raises:
        MeasurementError: a folder of tasks or prompts has no files, or a line is malformed.
    """
    architecture, recipe = validation.architecture, validation.recipe
    hidden_states = 4 * architecture.hidden_size * validation.settings.tokens
    memory = memory_bytes(architecture, recipe, validation.lengths.context_length)
    amount, default = validation_amount(validation), _validation_seconds(validation)
    return Needs(
        memory_bytes=max(int(memory), _ORACLE_BYTES),
        disk_bytes=bundle_bytes + hidden_states,
        seconds=rates.seconds("validate", recipe.name, amount, default),
    )
