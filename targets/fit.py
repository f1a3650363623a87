"""What fits on a device: the bytes of weights, KV cache and runtime, compared with the memory that an app may use.

The bytes of weights are exact (targets/storage). Those of the runtime are an estimate: a base for its code and buffers,
the activations of one batch of prompt tokens, a layer's attention scores of that batch, one row of logits, and the
copies of the weights that the runtime makes when it loads them. The estimate was compared with llama.cpp and
onnxruntime on x86-64, with a model of 135 million parameters and batches of 512 tokens: it is off the peak by 8 % at
most. An app that reads its prompts in larger batches needs more. A Core ML package in fixed shapes reads 64 tokens at a
time; its estimate is no lower for that, since no device has measured it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from targets.architecture import Architecture
from targets.budget import Budget
from targets.devices import Target
from targets.errors import FitError, UnsupportedModelError
from targets.kv_cache import check_kv_cache, kv_cache_bytes
from targets.recipes import RECIPES, Format, Recipe
from targets.runtimes import shortfalls
from targets.runtimes.expected import expected_features
from targets.runtimes.table import requires
from targets.storage.plans import plan_of

DEFAULT_CONTEXT = 4096  # tokens; the longest context that a bundle is built for by default
LEAST_CONTEXT = 512  # tokens; a shorter context is too short for a conversation: the model does not fit
CONTEXT_STEP = 64
_BATCH_TOKENS = 512
_BASE_BYTES: dict[Format, int] = {"gguf": 80_000_000, "onnx": 200_000_000, "coreml": 150_000_000}
# onnxruntime computes float16 matrices in float32, and repacks those in blocks with float32 scales, when it loads them.
_LOADED_SHARE = {"onnx-fp16": 2.0, "onnx-int8": 1.02, "onnx-int4": 1.1}


@dataclass(frozen=True)
class RecipeFit:
    """How a recipe fits a target.

    `longest_context` is in tokens, 0 if the recipe doesn't fit. `kv_cache_bytes` and `runtime_bytes` are at that
    context, or at the shortest useful one if the recipe doesn't fit. `reason`: why it doesn't fit; if it does, its
    limitations.
    """

    recipe: str
    weight_bytes: int
    kv_cache_bytes: int
    runtime_bytes: int
    longest_context: int
    fits: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


@cache
def weight_bytes(architecture: Architecture, recipe: Recipe) -> int:
    """Return the exact bytes of all weights as the recipe stores them.

    While the types for a budget are not chosen, it is what the budget allows; what a recipe without one has for `fit`.
    """
    budget = recipe.budget
    if budget is not None and budget.kind != "fit" and not recipe.types:
        return budget.allowed_bytes(architecture.parameter_count)
    return sum(weight.bytes for weight in plan_of(architecture, recipe))


def runtime_bytes(architecture: Architecture, recipe: Recipe, context_length: int) -> int:
    """Estimate the bytes that a runtime needs in addition to stored weights and cache."""
    activations = _BATCH_TOKENS * 4 * (3 * architecture.hidden_size + 2 * architecture.intermediate_size)
    scores = _score_bytes(architecture) * context_length
    loaded = (_LOADED_SHARE.get(recipe.name, 1.0) - 1) * weight_bytes(architecture, recipe)
    return int(_BASE_BYTES[recipe.format] + activations + scores + 4 * architecture.vocabulary_size + loaded)


def memory_bytes(architecture: Architecture, recipe: Recipe, context_length: int) -> int:
    """Predict the memory of an app that runs the model with a full context."""
    return (
        weight_bytes(architecture, recipe)
        + kv_cache_bytes(architecture, recipe, context_length)
        + runtime_bytes(architecture, recipe, context_length)
    )


def room_for_weights(architecture: Architecture, recipe: Recipe, memory: int, context_length: int) -> int:
    """Return how many bytes of weights leave room in an app's memory for the rest. Negative where nothing does."""
    weightless = replace(recipe, budget=Budget("bytes", 0), types=())
    return int((memory - memory_bytes(architecture, weightless, context_length)) / _LOADED_SHARE.get(recipe.name, 1.0))


def fit(architecture: Architecture, recipe: Recipe, target: Target) -> RecipeFit:
    """Compute whether and how a recipe fits a target."""
    try:
        check_kv_cache(architecture, recipe)
        weights = weight_bytes(architecture, recipe)
    except UnsupportedModelError as error:
        return refused(recipe.name, error)
    longest = _longest_context(architecture, recipe, target.app_memory_bytes)
    refusal = _refusal(architecture, recipe, target, longest)
    shown = least_context(architecture) if refusal else longest
    return RecipeFit(
        recipe.name,
        weights,
        kv_cache_bytes(architecture, recipe, shown),
        runtime_bytes(architecture, recipe, shown),
        longest_context=0 if refusal else longest,
        fits=not refusal,
        reason=refusal or "; ".join(_remarks(architecture, recipe, target, longest)),
    )


def refused(recipe: str, error: UnsupportedModelError) -> RecipeFit:
    """Return the fit of a recipe that can't store the model. Its reason is the error's problem and fix."""
    return RecipeFit(recipe, 0, 0, 0, 0, fits=False, reason=f"{error.problem}; {error.fix}")


def _longest_context(architecture: Architecture, recipe: Recipe, budget_bytes: int) -> int:
    """Return the longest context in tokens within a budget: the model's own, or a multiple of `CONTEXT_STEP`."""
    room = budget_bytes - memory_bytes(architecture, recipe, 0)
    each = kv_cache_bytes(architecture, recipe, 1) + _score_bytes(architecture)
    most = max(0, room) // each
    return architecture.context_length if most >= architecture.context_length else most // CONTEXT_STEP * CONTEXT_STEP


def _score_bytes(architecture: Architecture) -> int:
    """Return the bytes of a layer's attention scores of one batch, for each position of the context."""
    return architecture.head_count * _BATCH_TOKENS * 4


def least_context(architecture: Architecture) -> int:
    """Return the shortest context that a recipe must have room for, in tokens."""
    return min(LEAST_CONTEXT, architecture.context_length)


def _refusal(architecture: Architecture, recipe: Recipe, target: Target, longest: int) -> str:
    """Return why a recipe doesn't fit a target; empty if it does."""
    least = least_context(architecture)
    offered = f"an app has {_gb(target.app_memory_bytes)}"
    if recipe.format not in target.formats:
        return f"{target.title} has no runtime for {recipe.format}"
    if missing := missing_runtime(architecture, recipe, target, max(least, min(longest, DEFAULT_CONTEXT))):
        return missing
    if (bare := memory_bytes(architecture, recipe, 0)) >= target.app_memory_bytes:
        return f"weights and runtime need {_gb(bare)}, {offered}"
    if longest < least:
        return f"a context of {least} tokens needs {_gb(memory_bytes(architecture, recipe, least))}, {offered}"
    return ""


def missing_runtime(architecture: Architecture, recipe: Recipe, target: Target, context_length: int) -> str:
    """Return why no runtime that the target's apps ship can run the recipe; empty where one can, or none is stated."""
    needed = requires(expected_features(architecture, recipe, context_length)) if target.runtimes else None
    if needed is None:
        return ""
    return "; ".join(one.text for one in shortfalls(recipe.format, needed.runtimes, target.offer, target.os))


def _remarks(architecture: Architecture, recipe: Recipe, target: Target, context_length: int) -> list[str]:
    """Return the limitations of a recipe that fits."""
    remarks = []
    window, rope = architecture.effective_window, architecture.longrope
    if recipe.format == "gguf" and window is not None and context_length > window:
        remarks.append(f"exact up to {window} tokens: llama.cpp ignores the sliding window")
    if recipe.format == "gguf" and rope is not None and context_length > rope.original_context:
        edge = rope.original_context
        remarks.append(
            f"llama.cpp chooses longrope's factors by the context it is opened with: open it with {edge} tokens for "
            f"sequences of at most {edge}"
        )
    limit = target.store_limit
    if limit is not None and weight_bytes(architecture, recipe) > limit.value:
        remarks.append(f"over the app store's limit of {_gb(limit.value)} a piece")
    return remarks


def fit_all(architecture: Architecture, target: Target, recipes: Iterable[Recipe] | None = None) -> list[RecipeFit]:
    """Compute the fit of each recipe, by default of all recipes."""
    return [fit(architecture, recipe, target) for recipe in (RECIPES.values() if recipes is None else recipes)]


def require_fit(architecture: Architecture, recipe: Recipe, target: Target, asked_context: int | None = None) -> int:
    """Return the context to build for: `asked_context`, or by default the longest that fits, at most 4,096 tokens.

    Raises:
        FitError: the recipe does not fit, or the asked context doesn't. The fix names what does.
    """
    found = fit(architecture, recipe, target)
    if not found.fits:
        others = [other.recipe for other in fit_all(architecture, target) if other.fits]
        fix = (
            f"use a recipe that fits: {', '.join(others)}"
            if others
            else f"use a smaller model, or a target with more memory: no recipe of this model fits {target.title}"
        )
        if recipe.budget is not None:
            fix = f'ask for a smaller size, or for "fit", the largest that fits there; or {fix}'
        raise FitError(f"{recipe.name} does not fit {target.name}: {found.reason}", fix=fix)
    if asked_context is None:
        return min(found.longest_context, DEFAULT_CONTEXT)
    if missing := missing_runtime(architecture, recipe, target, asked_context):
        raise FitError(
            f"{recipe.name} on {target.name}, with a context of {asked_context} tokens: {missing}",
            fix="ship a later runtime, and correct runtimes in the target or the cell; or ask for a shorter context",
        )
    if asked_context > found.longest_context:
        whose = "the model supports" if found.longest_context == architecture.context_length else "fit there"
        raise FitError(
            f"{recipe.name} on {target.name}: a context of {asked_context} tokens is more than the "
            f"{found.longest_context} that {whose}",
            fix=f"set a context of at most {found.longest_context} tokens",
        )
    return asked_context


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
