"""A checkpoint into `model.mlpackage`: an ML Program for iOS 18 and macOS 15, with its KV cache as state.

- `program.py`: the decoder as MIL operations; `positions.py`: masks and rotary positions. `description.py`: what apps
  see of it.
- `weights.py`: each constant is promised first, later read, stored as `targets/storage/coreml.py` plans, written and
  dropped; `quantize.py` computes its codes.
- `package.py`: the files. Memory holds one tensor.

`builders/runtime/coreml/` runs what is written here.

The program's interface, with the names and shapes of Apple's own Llama-3.1 package, which swift-transformers looks for:

    inputIds    int32    [1, q]           input: the q new tokens, 1 or more: a prompt, then one token at a time
    causalMask  float16  [1, 1, 1 or q, n]   input: n is the length of the sequence after the call. Zeros will do
    keyCache    float16  [layers, 1, key heads, context, head size]   state
    valueCache  float16  the same         state
    logits      float16  [1, q, vocabulary]   output: after each new token

An app makes a state, and calls with q tokens and a mask of zeros of width n = tokens before + q. Where the tokens
stand follows from n - q. The program hides the future and what lies behind the sliding window by itself; the mask's
values are added to the scores, so an app may hide more (-inf). Nothing but the shapes of the two inputs changes from
call to call, and no value is needed to know a shape. A state is one sequence; to take tokens back, call with a
smaller n.

longrope: where the context passes the original one, the metadata has `phipack.longrope_edge`, the longest sequence
that takes the short factors. The call that passes it must take the whole sequence (q = n), since all that was cached
belongs to the other factors.

Precision: matrices, rotation, attention and cache are float16; the residual stream and the norms are float32. Squares
of the stream's few large channels overflow float16, and rounding the stream costs most of what float16 costs: on the
135M model mean KL is 0.9e-5 so, and 1.6e-5 with a float16 stream (same top 99.7 and 99.6 %).
"""

from __future__ import annotations

import logging
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builders.conversion import BuildRequest, Conversion, weight_classes
from builders.coreml.description import EDGE_FACT, describe
from builders.coreml.package import PACKAGE_NAME, package_sizes, write_package
from builders.coreml.program import write_program
from builders.coreml.weights import Weights
from targets.recipes import Recipe
from targets.storage import StoredWeight
from targets.storage.coreml import BLOCK_SIZE, FLOAT16, plan

__all__ = ["EDGE_FACT", "PACKAGE_NAME", "artifact_sizes", "convert"]

# coremltools' builder keeps the function that is being written in a global: one at a time in a process.
_WRITING = threading.Lock()

# On import coremltools warns of every absent library that it could also convert from, and that Linux has no Core ML.
logging.getLogger("coremltools").setLevel(logging.ERROR)


def convert(request: BuildRequest, folder: Path) -> Conversion:
    """Write `model.mlpackage` into `folder`, where the tokenizer's files lie already.

    Raises:
        CheckpointError: a tensor holds NaN, an infinity, or what float16 can't.
    """
    architecture, recipe, context = request.checkpoint.architecture, request.recipe, request.context_length
    stored = plan(architecture, recipe)
    weights = Weights(request)
    with request.phases.phase("transform"):
        program, description = _described(request, weights)
    digests = write_package(folder / PACKAGE_NAME, program, weights, description, request.progress)
    return Conversion(
        weights=weight_classes(stored),
        exact_context_length=context,
        digests={f"{PACKAGE_NAME}/{path}": digest for path, digest in digests.items()},
        tools={name: version(name) for name in ("coremltools", "numpy")},
        notes=_notes(recipe, stored, architecture.longrope_edge(context)),
    )


def artifact_sizes(request: BuildRequest) -> dict[str, int]:
    """Give the exact size in bytes of every file that `convert` would write, by its path. No weight is read."""
    weights = Weights(request)
    program, description = _described(request, weights)
    sizes = package_sizes(program, weights, description)
    return {f"{PACKAGE_NAME}/{path}": size for path, size in sizes.items()}


def _described(request: BuildRequest, weights: Weights) -> tuple[Any, Any]:
    """Write the program, and describe its interface."""
    architecture, context = request.checkpoint.architecture, request.context_length
    with _WRITING:
        program = write_program(architecture, weights, context)
    return program, describe(architecture, request.recipe, context)


def _notes(recipe: Recipe, stored: tuple[StoredWeight, ...], edge: int | None) -> tuple[str, ...]:
    notes = []
    kept = [weight.name for weight in stored if weight.storage == FLOAT16 and len(weight.shape) == 2]
    if recipe.bits == 4 and kept:
        notes.append(f"{len(kept)} matrices stay float16: their rows are no multiple of {BLOCK_SIZE} ({kept[0]} …)")
    if edge is not None:
        notes.append(
            f"a sequence that grows past {edge} tokens must be given again from its beginning in one call: "
            "what was cached belongs to longrope's short factors"
        )
    return tuple(notes)
