"""A checkpoint into `model.mlpackage`. Memory holds one tensor.

The program is written first, its constants only promised; then the package is written, and each constant is read,
stored and dropped when its turn comes.
"""

from __future__ import annotations

import logging
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from builders.conversion import (
    BuildRequest,
    Conversion,
    attention_factors,
    require_range,
    weight_classes,
    window_notes,
)
from builders.coreml.description import describe
from builders.coreml.interface import LONG_FACTORS, MAIN, call_lengths
from builders.coreml.library import load_coremltools
from builders.coreml.package import PACKAGE_NAME, package_sizes, write_package
from builders.coreml.program import float16_constants, write_program
from builders.coreml.weights import Weights
from targets.recipes import Recipe
from targets.storage import StoredWeight
from targets.storage.coreml import BLOCK_SIZE, FLOAT16, plan

# coremltools' builder keeps the function being written in a global: one at a time in a process.
_WRITING = threading.Lock()

# On import coremltools warns about every library that it could convert from and does not find, and about Linux.
logging.getLogger("coremltools").setLevel(logging.ERROR)


def convert(request: BuildRequest, folder: Path) -> Conversion:
    """Write `model.mlpackage` into `folder`, which already has the tokenizer's files.

    Raises:
        CheckpointError: a tensor holds NaN, an infinity, or what float16 can't represent.
        UnsupportedModelError: so does a number of config.json.
    """
    architecture, recipe, context = request.checkpoint.architecture, request.recipe, request.context_length
    stored = plan(architecture, recipe)
    with request.phases.phase("transform"):
        program, description, weights = _described(request)
    digests = write_package(folder / PACKAGE_NAME, program, weights, description)
    return Conversion(
        weights=weight_classes(stored),
        exact_context_length=context,
        digests={f"{PACKAGE_NAME}/{path}": digest for path, digest in digests.items()},
        tools={name: version(name) for name in ("coremltools", "numpy", "numba")},
        notes=(
            *_notes(recipe, stored, architecture.longrope_edge(context)),
            *window_notes(architecture, context),
        ),
    )


def artifact_sizes(request: BuildRequest) -> dict[str, int]:
    """Return the exact bytes of every file that `convert` would write, by path. No weight is read."""
    program, description, weights = _described(request)
    sizes = package_sizes(program, weights, description)
    return {f"{PACKAGE_NAME}/{path}": size for path, size in sizes.items()}


def _described(request: BuildRequest) -> tuple[Any, Any, Weights]:
    """Return the program, the description of its interface, and what computes its constants.

    All functions have the same constants by the same names, so those of one are those of all.
    """
    architecture, context = request.checkpoint.architecture, request.context_length
    require_range(request.checkpoint, attention_factors(architecture) | float16_constants(architecture), np.float16)
    lengths = call_lengths(request.recipe, context)
    load_coremltools()
    with _WRITING:
        functions = {name: (length, Weights(request)) for name, length in lengths.items()}
        program = write_program(architecture, context, functions)
    return program, describe(architecture, request.recipe, context), functions[MAIN][1]


def _notes(recipe: Recipe, stored: tuple[StoredWeight, ...], edge: int | None) -> tuple[str, ...]:
    notes = []
    kept = [weight.name for weight in stored if weight.storage == FLOAT16 and len(weight.shape) == 2]
    if recipe.bits == 4 and kept:
        notes.append(f"{len(kept)} matrices stay float16: their rows are no multiple of {BLOCK_SIZE} ({kept[0]} …)")
    if edge is not None:
        notes.append(
            f"a sequence that grows past {edge} tokens must be given again from its beginning"
            f"{f', with {LONG_FACTORS} = 1' if recipe.fixed_shapes else ' in one call'}: "
            "what was cached belongs to longrope's short factors"
        )
    return tuple(notes)
