"""What jobs are estimated to need. Constants with their sources; rates that jobs have recorded replace them.

Seconds = amount x rate. The amount of a calibration and of a build is the model's parameters; that of a validation,
parameters x tokens that are read. The rates are those of 2 cores; a machine with more is faster, and one that also does
something else is slower: an estimate says which job is long, not when it ends.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from builders.matrix.graph import Kind, Needs
from builders.quantization.calibration.moments import moment_bytes
from builders.quantization.calibration.text import TOKENS
from builders.quantization.calibration.walks import CalibrationWalk
from registry.store.actions import read_record, record_names
from registry.store.protocol import Store
from targets.architecture import Architecture
from targets.calibration import Calibration, labelled
from targets.evaluation import EvaluationSettings, Suite
from targets.fit import memory_bytes
from targets.recipes import Recipe

RECORDS_READ = 50  # of each kind: a request each
_MINI = 3.82e9  # parameters of Phi-3-mini, from which most rates were measured

# Recipe -> seconds a parameter. Source: docs/benchmarks/full-size.md, mini on 2 cores; coreml-fp16 from Phi-4-mini's
# row there (3.84e9 parameters) divided by 3.0, as coreml-int4's rows show that the machine was busy by that much more.
# K-quants: from the processor-seconds of two layers there (Q4_K_M: four), half of them on each of 2 cores.
# Estimates, not runs: gguf-iq4_nl, from the weights that are quantized a second relative to Q4_K; onnx-int8 as
# gguf-q8_0; coreml-palettized4 from 1.7 ms a table on one core.
BUILD_RATES: Mapping[str, float] = {
    "gguf-f16": 19.4 / _MINI,
    "gguf-q8_0": 23.0 / _MINI,
    "gguf-q6_k": 34 / _MINI,
    "gguf-q5_k_m": 36 / _MINI,
    "gguf-q4_k_m": 34 / _MINI,
    "gguf-iq4_nl": 50 / _MINI,
    "gguf-q4_0": 17.7 / _MINI,
    "gguf-q3_k_m": 53 / _MINI,
    "onnx-fp16": 21.2 / _MINI,
    "onnx-int8": 23.0 / _MINI,
    "onnx-int4": 30.6 / _MINI,
    "coreml-fp16": 152.5 / 3.0 / 3.84e9,
    "coreml-int4": 49.9 / _MINI,
    "coreml-palettized4": 110 / _MINI,
}
# Calibration -> seconds a parameter, of the walk and of the rounding, on 2 cores. Source: docs/benchmarks/full-size.md,
# whole runs of mini's onnx-int4. full: its processor-seconds, half of them on each core, 73 % for the walk and 26 % for
# the rounding.
WALK_RATES: Mapping[Calibration, float] = {"none": 0.0, "light": 134.0 / _MINI, "full": 1840.0 / _MINI}
ROUNDING_RATES: Mapping[Calibration, float] = {"none": 0.0, "light": 27.0 / _MINI, "full": 660.0 / _MINI}
# Seconds a parameter, of the sensitivities by which a budget is spent: an estimate, not a run (mini: 20 to 45 minutes).
SENSITIVITY_RATE = 1800.0 / _MINI
# Seconds for a parameter and token of the text. The reference: 2 operations in float32 at 50e9 a second on 2 cores,
# which is assumed (on busy ones 14e9 were measured). The runtime: mini's prefill of full-size.md, 32 tokens a second.
VALIDATION_RATE = 2 / 50e9 + 1 / (_MINI * 32.0)
# Tokens that are generated one by one, for greedy continuations and to measure speed, at mini's 8.05 a second there.
_DECODED_TOKENS, _DECODE_RATE = 256, 1 / (_MINI * 8.05)


@dataclass(frozen=True)
class _Added:
    """What a suite takes in addition to the text, in tokens: read by both, by the bundle alone, and written by both."""

    read: int = 0
    read_by_bundle: int = 0
    written: int = 0

    @property
    def tokens(self) -> float:
        """As many tokens of the text take as long."""
        return self.read + _BUNDLE_SHARE * self.read_by_bundle + _WRITTEN * self.written


# Of a token of the text, the share that the bundle takes. Written by both: decoded by the bundle, three at once in the
# time of two, and about one and a half tokens read by the reference for each that it keeps (reference/answers.py).
_BUNDLE_SHARE = 1 / (_MINI * 32.0) / VALIDATION_RATE
_WRITTEN = (_DECODE_RATE / 1.5 + 1.5 * 2 / 50e9) / VALIDATION_RATE
# Texts of other kinds; prompts and the lengths around edges, with a context of 4,096 tokens; answers.
_ADDED: Mapping[Suite, _Added] = {
    "accuracy": _Added(),
    "behaviour": _Added(read=2000 + 4096, read_by_bundle=2 * 4096, written=32 * 256),
    "quick": _Added(read=1024 + 600, read_by_bundle=600, written=8 * 32),
    "full": _Added(read=4096 + 2000 + 4096 + 2560, read_by_bundle=2 * 4096, written=32 * 256),
}
_QUESTION_TOKENS, _PROMPT_TOKENS = 160, 6 * 80  # of MMLU's questions; of a prompt and its answer in as many walks
ORACLE_SECONDS = 28.0  # docs/validation.md: once for a checkpoint on a machine
# A build holds a few tensors; the largest is the embedding, in float32. Fitted to the peaks of full-size.md: mini's
# embedding has 0.39 GB, small's 1.64, Phi-4-mini's 2.46; peaks 0.72, 2.5 and 4.0 GB; Core ML 0.45 GB more.
_BUILD_BASE_BYTES, _BUILD_EMBEDDING_SHARE = 250_000_000, 1.5
_COREML_BYTES = 450_000_000
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


def walk_amount(architecture: Architecture) -> float:
    """Return how much work a calibration is, in parameters."""
    return float(architecture.parameter_count)


def walk_needs(rates: Rates, architecture: Architecture, walk: CalibrationWalk) -> Needs:
    """Estimate what a calibration needs. What it measures stays in the cache's folder."""
    amount = walk_amount(architecture)
    rate = WALK_RATES[walk.level] if walk.blocks is None else SENSITIVITY_RATE
    return Needs(
        memory_bytes=_walk_bytes(architecture, walk.level) + _states_bytes(architecture, walk),
        disk_bytes=moment_bytes(architecture) if walk.level == "full" else 0,
        seconds=rates.seconds("calibrate", walk.label, amount, amount * rate),
    )


def build_amount(architecture: Architecture) -> float:
    """Return how much work a build is, in parameters."""
    return float(architecture.parameter_count)


def validation_amount(architecture: Architecture, settings: EvaluationSettings) -> float:
    """Return how much work a validation is, in parameters x tokens.

    Of folders of tasks and prompts only their files are counted: how many questions they have is not read here.
    """
    tokens = settings.tokens_read + _ADDED[settings.suite].tokens
    tokens += _files(settings.tasks) * settings.task_questions * _QUESTION_TOKENS
    tokens += _files(settings.safety) * settings.safety_prompts * _PROMPT_TOKENS
    return float(architecture.parameter_count) * tokens


def _files(folder: Path | None) -> int:
    return 0 if folder is None else sum(1 for _ in folder.glob("*.jsonl"))


def build_needs(
    rates: Rates, architecture: Architecture, recipe: Recipe, bundle_bytes: int, calibration: Calibration
) -> Needs:
    """Estimate what a build needs after its calibration. Its bundle lies in the work folder until the store has it."""
    embedding = 4 * architecture.vocabulary_size * architecture.hidden_size
    memory = _BUILD_BASE_BYTES + _BUILD_EMBEDDING_SHARE * embedding + _COREML_BYTES * (recipe.format == "coreml")
    amount = build_amount(architecture)
    default = amount * (BUILD_RATES[recipe.name] + ROUNDING_RATES[calibration])
    seconds = rates.seconds("build", rate_label(recipe.name, calibration, recipe.budget is not None), amount, default)
    if calibration == "full":
        memory += _layer_moments(architecture)
    disk = bundle_bytes + (moment_bytes(architecture) if calibration == "full" else 0)
    return Needs(memory_bytes=int(memory), disk_bytes=disk, seconds=seconds)


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


def validation_needs(
    rates: Rates,
    architecture: Architecture,
    recipe: Recipe,
    settings: EvaluationSettings,
    *,
    context_length: int,
    bundle_bytes: int,
) -> Needs:
    """Estimate what a validation needs: its bundle on disk, and in memory with a full context, or the oracle."""
    hidden_states = 4 * architecture.hidden_size * settings.tokens
    amount = validation_amount(architecture, settings)
    decoding = architecture.parameter_count * _DECODED_TOKENS * _DECODE_RATE
    default = ORACLE_SECONDS + amount * VALIDATION_RATE + decoding
    seconds = rates.seconds("validate", recipe.name, amount, default)
    return Needs(
        memory_bytes=max(int(memory_bytes(architecture, recipe, context_length)), _ORACLE_BYTES),
        disk_bytes=bundle_bytes + hidden_states,
        seconds=seconds,
    )
