"""What fits on a device: bytes of weights, KV cache and runtime against what an app may use.

Weights are exact (targets/storage). The runtime's part is an estimate: a base for its code and buffers, activations of
one batch of prompt tokens, one row of logits, and what it makes of the weights when it loads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from targets.architecture import Architecture
from targets.devices import Target
from targets.errors import FitError, UnsupportedModelError
from targets.recipes import RECIPES, Format, Recipe
from targets.storage import onnx
from targets.storage.plans import plan_of

DEFAULT_CONTEXT = 4096  # tokens that a bundle provides for when nobody asks for more
LEAST_CONTEXT = 512  # tokens; with less, no conversation is possible, and the model does not fit
CONTEXT_STEP = 64
_BATCH_TOKENS = 512
_BASE_BYTES: dict[Format, int] = {"gguf": 80_000_000, "onnx": 200_000_000, "coreml": 150_000_000}
# onnxruntime computes float16 matrices in float32, and repacks 4-bit ones with float32 scales, when it loads them.
_LOADED_SHARE = {"onnx-fp16": 2.0, "onnx-int4": 1.1}


@dataclass(frozen=True)
class RecipeFit:
    """How a recipe fits a target. `longest_context` is 0 where it doesn't; `kv_cache_bytes` is at that context."""

    recipe: str
    weight_bytes: int
    kv_cache_bytes: int
    runtime_bytes: int
    longest_context: int
    fits: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return asdict(self)


def weight_bytes(architecture: Architecture, recipe: Recipe) -> int:
    """Bytes of all weights as the recipe stores them, exactly."""
    return sum(weight.bytes for weight in plan_of(architecture, recipe))


def kv_cache_bytes(architecture: Architecture, recipe: Recipe, tokens: int) -> int:
    """Bytes of keys and values of so many positions, in the type that the recipe's runtime keeps them in."""
    value_bytes = onnx.cache_value_bytes(recipe) if recipe.format == "onnx" else 2
    return architecture.kv_cache_bytes(tokens, bytes_per_value=value_bytes)


def runtime_bytes(architecture: Architecture, recipe: Recipe) -> int:
    """Estimate what a runtime needs besides stored weights and cache."""
    activations = _BATCH_TOKENS * 4 * (3 * architecture.hidden_size + 2 * architecture.intermediate_size)
    loaded = (_LOADED_SHARE.get(recipe.name, 1.0) - 1) * weight_bytes(architecture, recipe)
    return int(_BASE_BYTES[recipe.format] + activations + 4 * architecture.vocabulary_size + loaded)


def memory_bytes(architecture: Architecture, recipe: Recipe, context_length: int) -> int:
    """Predict the memory of an app that runs the model, its context full."""
    return (
        weight_bytes(architecture, recipe)
        + kv_cache_bytes(architecture, recipe, context_length)
        + runtime_bytes(architecture, recipe)
    )


def fit(architecture: Architecture, recipe: Recipe, target: Target) -> RecipeFit:
    """Say whether and how a recipe fits a target."""
    try:
        weights = weight_bytes(architecture, recipe)
    except UnsupportedModelError as error:
        return RecipeFit(recipe.name, 0, 0, 0, 0, fits=False, reason=error.problem)
    runtime = runtime_bytes(architecture, recipe)
    room = target.app_memory_bytes - weights - runtime
    most = min(architecture.context_length, max(0, room) // kv_cache_bytes(architecture, recipe, 1))
    longest = most if most == architecture.context_length else most // CONTEXT_STEP * CONTEXT_STEP
    cache = kv_cache_bytes(architecture, recipe, longest)
    least = min(LEAST_CONTEXT, architecture.context_length)
    reason = ""
    if recipe.format not in target.formats:
        reason = f"{target.title} has no runtime for {recipe.format}"
    elif room <= 0:
        reason = f"weights and runtime need {_gb(weights + runtime)}, an app has {_gb(target.app_memory_bytes)}"
    elif longest < least:
        needed = memory_bytes(architecture, recipe, least)
        reason = f"a context of {least} tokens needs {_gb(needed)}, an app has {_gb(target.app_memory_bytes)}"
    fits = not reason
    window = architecture.effective_window
    if fits and recipe.format == "gguf" and window is not None and longest > window:
        reason = f"exact up to {window} tokens: llama.cpp ignores the sliding window"
    return RecipeFit(recipe.name, weights, cache, runtime, longest if fits else 0, fits=fits, reason=reason)


def fit_all(architecture: Architecture, target: Target, recipes: Iterable[Recipe] | None = None) -> list[RecipeFit]:
    """Do it for all recipes, or for some."""
    return [fit(architecture, recipe, target) for recipe in (RECIPES.values() if recipes is None else recipes)]


def require_fit(architecture: Architecture, recipe: Recipe, target: Target, asked_context: int | None = None) -> int:
    """Give the context to build for: what is asked, or the longest that fits, at most 4,096 tokens.

    Raises:
        FitError: the recipe does not fit, or the asked context doesn't. The fix names what would.
    """
    found = fit(architecture, recipe, target)
    if not found.fits:
        others = [other.recipe for other in fit_all(architecture, target) if other.fits]
        fix = f"these fit: {', '.join(others)}" if others else f"no recipe of this model fits {target.title}"
        raise FitError(f"{recipe.name} does not fit {target.name}: {found.reason}", fix=fix)
    if asked_context is None:
        return min(found.longest_context, DEFAULT_CONTEXT)
    if asked_context > found.longest_context:
        raise FitError(
            f"{recipe.name} on {target.name}: a context of {asked_context} tokens does not fit",
            fix=f"ask for at most {found.longest_context}",
        )
    return asked_context


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
