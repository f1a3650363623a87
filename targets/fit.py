"""What fits on a device: bytes of weights, KV cache and runtime against what an app may use.

Weights are exact (targets/storage). The runtime's part is an estimate: a base for its code and buffers, the activations
of one batch of prompt tokens and a layer's attention scores of them, one row of logits, and what the runtime makes of
the weights when it loads them. It was held against llama.cpp and onnxruntime on x86-64, with a model of 135 million
parameters and batches of 512 tokens: 8 % off the peak at most. An app that reads its prompts in larger batches needs
more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
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
    """How a recipe fits a target.

    `longest_context` is in tokens, 0 where it doesn't fit. `kv_cache_bytes` and `runtime_bytes` are at that context, or
    at the least one that would do. `reason`: why it doesn't fit, or what to know where it does.
    """

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


@cache
def weight_bytes(architecture: Architecture, recipe: Recipe) -> int:
    """Bytes of all weights as the recipe stores them, exactly."""
    return sum(weight.bytes for weight in plan_of(architecture, recipe))


def kv_cache_bytes(architecture: Architecture, recipe: Recipe, tokens: int) -> int:
    """Bytes of keys and values of so many positions, in the type that the recipe's runtime keeps them in."""
    value_bytes = onnx.cache_value_bytes(recipe) if recipe.format == "onnx" else 2
    return architecture.kv_cache_bytes(tokens, bytes_per_value=value_bytes)


def runtime_bytes(architecture: Architecture, recipe: Recipe, context_length: int) -> int:
    """Estimate what a runtime needs besides stored weights and cache."""
    activations = _BATCH_TOKENS * 4 * (3 * architecture.hidden_size + 2 * architecture.intermediate_size)
    scores = _score_bytes(architecture) * context_length
    loaded = (_LOADED_SHARE.get(recipe.name, 1.0) - 1) * weight_bytes(architecture, recipe)
    return int(_BASE_BYTES[recipe.format] + activations + scores + 4 * architecture.vocabulary_size + loaded)


def memory_bytes(architecture: Architecture, recipe: Recipe, context_length: int) -> int:
    """Predict the memory of an app that runs the model, its context full."""
    return (
        weight_bytes(architecture, recipe)
        + kv_cache_bytes(architecture, recipe, context_length)
        + runtime_bytes(architecture, recipe, context_length)
    )


def fit(architecture: Architecture, recipe: Recipe, target: Target) -> RecipeFit:
    """Say whether and how a recipe fits a target."""
    try:
        weights = weight_bytes(architecture, recipe)
    except UnsupportedModelError as error:
        return refused(recipe.name, error)
    longest = _longest_context(architecture, recipe, target.app_memory_bytes)
    refusal = _refusal(architecture, recipe, target, longest)
    shown = _least_context(architecture) if refusal else longest
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
    """Give the fit of a recipe that can't store the model: none, for the error's reason and with its fix."""
    reason = error.problem if error.fix is None else f"{error.problem}; {error.fix}"
    return RecipeFit(recipe, 0, 0, 0, 0, fits=False, reason=reason)


def _longest_context(architecture: Architecture, recipe: Recipe, budget_bytes: int) -> int:
    """Give the longest context in tokens that a budget holds: the model's own, or a multiple of `CONTEXT_STEP`."""
    room = budget_bytes - memory_bytes(architecture, recipe, 0)
    each = kv_cache_bytes(architecture, recipe, 1) + _score_bytes(architecture)
    most = max(0, room) // each
    return architecture.context_length if most >= architecture.context_length else most // CONTEXT_STEP * CONTEXT_STEP


def _score_bytes(architecture: Architecture) -> int:
    """Bytes of a layer's attention scores of one batch, for each position of the context."""
    return architecture.head_count * _BATCH_TOKENS * 4


def _least_context(architecture: Architecture) -> int:
    return min(LEAST_CONTEXT, architecture.context_length)


def _refusal(architecture: Architecture, recipe: Recipe, target: Target, longest: int) -> str:
    """Say why a recipe can't be had on a target; nothing where it can."""
    least = _least_context(architecture)
    offered = f"an app has {_gb(target.app_memory_bytes)}"
    if recipe.format not in target.formats:
        return f"{target.title} has no runtime for {recipe.format}"
    if (bare := memory_bytes(architecture, recipe, 0)) >= target.app_memory_bytes:
        return f"weights and runtime need {_gb(bare)}, {offered}"
    if longest < least:
        return f"a context of {least} tokens needs {_gb(memory_bytes(architecture, recipe, least))}, {offered}"
    return ""


def _remarks(architecture: Architecture, recipe: Recipe, target: Target, context_length: int) -> list[str]:
    """Say what to know of a recipe that fits."""
    remarks = []
    window, rope = architecture.effective_window, architecture.longrope
    if recipe.format == "gguf" and window is not None and context_length > window:
        remarks.append(f"exact up to {window} tokens: llama.cpp ignores the sliding window")
    if recipe.format == "gguf" and rope is not None and context_length > rope.original_context:
        edge = rope.original_context
        remarks.append(
            f"llama.cpp takes longrope's factors by the context it is opened with: up to {edge} for shorter sequences"
            if rope.short_attention_factor == rope.long_attention_factor
            else f"built for up to {edge} tokens: llama.cpp has one attention factor, this longrope another past that"
        )
    limit = target.store_limit
    if limit is not None and weight_bytes(architecture, recipe) > limit.value:
        remarks.append(f"over the app store's {_gb(limit.value)} a piece")
    return remarks


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
        whose = "the model takes" if found.longest_context == architecture.context_length else "fit there"
        raise FitError(
            f"{recipe.name} on {target.name}: a context of {asked_context} tokens is more than the "
            f"{found.longest_context} that {whose}",
            fix=f"ask for at most {found.longest_context}",
        )
    return asked_context


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
