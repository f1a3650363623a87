"""The contract between `build.py` and the converters of the formats.

`build.py` makes a `BuildRequest`; the package of a format (`gguf/`, `onnx/`, `coreml/`) writes the weights and returns
a `Conversion`. Nothing here knows a format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from builders.checkpoint import Checkpoint, TensorSource
from builders.phases import Phases
from builders.quantization.budget import Choice
from builders.quantization.calibration.statistics import CalibrationStatistics
from registry.bundle.chunks import FileDigest
from registry.bundle.manifest import ExactContext, WeightClass
from targets.architecture import Architecture
from targets.errors import UnsupportedModelError
from targets.progress import Progress, Step, silent
from targets.recipes import Recipe
from targets.storage import StoredWeight

DEFAULT_CONTEXT_LENGTH = 4096


@dataclass(frozen=True)
class BuildRequest:
    """What a converter is asked for: the facts of `checkpoint`, its weights through `source`, stored as `recipe` says.

    `context_length`: the longest sequence the bundle must accept, in tokens. `phases`: reports what is done; the source
    reports its reads there. `statistics`: what matrices are multiplied with, and `source` is folded with them;
    None where nothing is calibrated, and the codes are the format's own choice. `choice`: why the recipe's types are
    what they are; None for a recipe without a budget.
    """

    checkpoint: Checkpoint
    source: TensorSource
    recipe: Recipe
    context_length: int
    on_progress: Progress = silent
    phases: Phases = field(default_factory=Phases)
    statistics: CalibrationStatistics | None = None
    choice: Choice | None = None

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, recipe: Recipe, context_length: int, on_progress: Progress = silent
    ) -> BuildRequest:
        """Return a request whose source reads the checkpoint's own files. Nothing is read yet."""
        phases = Phases(on_progress, recipe.name)
        return cls(checkpoint, checkpoint.open_tensors(phases), recipe, context_length, on_progress, phases)

    def report_written(self, done_bytes: int, total_bytes: int) -> None:
        """Report how much of the artifact's weights is written: the step `write`, its subject the recipe."""
        self.on_progress(Step("write", done_bytes, total_bytes, "bytes", self.recipe.name))


@dataclass(frozen=True)
class Conversion:
    """What a converter did: how the weights are stored, notes for readers of the manifest, and the tools involved.

    `exact_context_length`: the longest sequence for which the runtime computes what the checkpoint does.
    """

    weights: tuple[WeightClass, ...]
    exact_context_length: int
    tools: dict[str, str]
    notes: tuple[str, ...] = field(default=())
    exact_contexts: tuple[ExactContext, ...] = field(default=())
    digests: Mapping[str, FileDigest] = field(default_factory=dict)  # of files that were hashed while being written


def weight_classes(stored: Iterable[StoredWeight]) -> tuple[WeightClass, ...]:
    """Return how many tensors and bytes are stored in each way."""
    tensors: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for weight in stored:
        tensors[weight.storage] += 1
        sizes[weight.storage] += weight.bytes
    return tuple(WeightClass(storage=kind, tensors=tensors[kind], bytes=sizes[kind]) for kind in tensors)


def window_notes(architecture: Architecture, context_length: int) -> tuple[str, ...]:
    """Return a note on how a sliding window is counted, where it has an effect: see docs/decisions/0008."""
    window = architecture.effective_window
    if window is None or context_length <= window:
        return ()
    note = (
        f"a token sees {window} keys, itself included, as in transformers; the code of Phi-3's release counts the "
        f"window as {window + 1} keys (mean KL past it of the order of 1e-4)"
    )
    return (note,)


def require_range(checkpoint: Checkpoint, numbers: Mapping[str, float], dtype: type[np.floating[Any]]) -> None:
    """Refuse numbers that the dtype, in which a format stores them, holds as infinity or with few digits.

    `numbers`: of `config.json`, or computed from it, by what messages call them.

    Raises:
        UnsupportedModelError: naming the first.
    """
    least, most = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    for name, number in numbers.items():
        if not least <= number <= most:
            raise UnsupportedModelError(
                f"{checkpoint.path / 'config.json'}: {name} is {number:g}, out of {dtype.__name__}'s range, which the "
                "bundle stores",
                fix="correct config.json to what the model was trained with, or build a recipe of another format",
            )


def attention_factors(architecture: Architecture) -> dict[str, float]:
    """Return what longrope multiplies the tables of its rotation with, by name; nothing without longrope."""
    rope = architecture.longrope
    if rope is None:
        return {}
    return {
        "longrope's factor of attention, of short sequences": rope.short_attention_factor,
        "longrope's factor of attention, of long sequences": rope.long_attention_factor,
    }


class FormatPackage(Protocol):
    """What the package of each format offers."""

    def convert(self, request: BuildRequest, folder: Path) -> Conversion:
        """Write the weights, and whatever else the runtime needs, into a folder."""
        ...

    def artifact_sizes(self, request: BuildRequest) -> dict[str, int]:
        """Return the exact bytes of each file that `convert` would write, by path. No weight is read."""
        ...


def default_context_length(checkpoint: Checkpoint) -> int:
    """The context a bundle gets when neither target nor project says: the model's own, at most 4,096 tokens."""
    return min(checkpoint.architecture.context_length, DEFAULT_CONTEXT_LENGTH)
