"""The recipes: each is a format and a way to store weights in it. `targets/storage/` chooses each tensor's type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from targets.budget import Budget
from targets.calibration import Calibration
from targets.errors import RecipeError, did_you_mean

Format = Literal["gguf", "onnx", "coreml"]
FOUR_BIT_CALIBRATION: Calibration = "light"  # the default of every recipe with fewer than 8 bits


@dataclass(frozen=True)
class Recipe:
    """One way to store a model.

    Attributes:
        bits: the nominal width of a weight matrix's element, without scales.
        budget: how large the bundle may become; None where `targets/storage/` alone chooses each tensor's type.
        types: the types that were chosen for a budget, by the canonical name of each matrix; they replace those of
            `targets/storage/`. Empty until they are chosen, which takes a measurement of the checkpoint.
        candidates: the types that may be chosen for a budget, such as those that are fast on a target; all that its
            format has (`targets/storage/candidates.py`) where empty.
        kv_cache: the type in which the runtime keeps keys and values (`targets/kv_cache.py`); its own where empty.
        fixed_shapes: whether no length in a Core ML program can change from call to call, as the Neural Engine needs.
    """

    name: str
    format: Format
    bits: int
    summary: str
    budget: Budget | None = None
    types: tuple[tuple[str, str], ...] = ()
    candidates: tuple[str, ...] = ()
    kv_cache: str = ""
    fixed_shapes: bool = False

    @property
    def has_scaled_cache(self) -> bool:
        """Whether the graph stores keys and values with scales, which a calibration measures: int8 in ONNX."""
        return self.format == "onnx" and bool(self.kv_cache)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("gguf-f16", "gguf", 16, "float16 matrices, float32 norms"),
        Recipe("gguf-q8_0", "gguf", 8, "8-bit blocks of 32, one float16 scale each"),
        Recipe("gguf-q6_k", "gguf", 6, "6-bit K-quants"),
        Recipe("gguf-q5_k_m", "gguf", 5, "5-bit K-quants, more bits for the tensors that llama.cpp's Q5_K_M selects"),
        Recipe("gguf-q4_k_m", "gguf", 4, "4-bit K-quants, more bits for the tensors that llama.cpp's Q4_K_M selects"),
        Recipe("gguf-iq4_nl", "gguf", 4, "4-bit blocks of 32, 16 uneven levels; as large as Q4_0, and closer"),
        Recipe("gguf-q4_0", "gguf", 4, "4-bit blocks of 32, one float16 scale each; head in Q6_K or Q8_0"),
        Recipe("gguf-q3_k_m", "gguf", 3, "3-bit K-quants, more bits for the tensors that llama.cpp's Q3_K_M selects"),
        Recipe("onnx-fp16", "onnx", 16, "float16 weights, activations and KV cache"),
        Recipe("onnx-int8", "onnx", 8, "int8 matrices in blocks of up to 128 (MatMulNBits)"),
        Recipe("onnx-int4", "onnx", 4, "int4 matrices in blocks of 32 (MatMulNBits)"),
        Recipe("coreml-fp16", "coreml", 16, "float16 weights and activations, stateful KV cache, iOS 18"),
        Recipe("coreml-int4", "coreml", 4, "int4 matrices in blocks of 32, stateful KV cache, iOS 18"),
        Recipe(
            "coreml-palettized4",
            "coreml",
            4,
            "tables of 16 values for 8 rows, fixed shapes, stateful KV cache, iOS 18",
            fixed_shapes=True,
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """Look up a recipe. Raises `RecipeError`, with the most similar name as its fix."""
    try:
        return RECIPES[name]
    except KeyError:
        raise RecipeError(f"unknown recipe {name!r}", fix=did_you_mean(name, RECIPES)) from None


def default_calibration(recipe: Recipe) -> Calibration:
    """Return how much a build of this recipe learns from a calibration text, where nobody says otherwise.

    A budget is spent by what the calibration measures, and so are the scales of a KV cache.
    """
    learns = recipe.bits < 8 or recipe.budget is not None or recipe.has_scaled_cache
    return FOUR_BIT_CALIBRATION if learns else "none"


def has_types(recipe: Recipe) -> bool:
    """Return whether a recipe's matrices can have other types: all but those of 16 bits."""
    return recipe.bits < 16


def can_calibrate(recipe: Recipe) -> bool:
    """Return whether a calibration changes anything: in 16 bits no weight is rounded that it could choose better."""
    return has_types(recipe) or recipe.has_scaled_cache


def check_calibration(recipe: Recipe, calibration: Calibration) -> None:
    """Refuse a calibration that a recipe has no use for, and none where it needs one. Raises `RecipeError`."""
    if calibration == "none" and recipe.has_scaled_cache:
        raise RecipeError(
            f'{recipe.name} with a KV cache in {recipe.kv_cache} and calibration "none": its scales follow from how '
            "large keys and values become, which a calibration measures",
            fix='choose calibration "light" or "full", or remove the type of the KV cache',
        )
    if calibration != "none" and not can_calibrate(recipe):
        raise RecipeError(
            f"{recipe.name} stores {recipe.bits}-bit weights, which {calibration} calibration can't improve",
            fix=f'choose calibration "none" for {recipe.name}, or a recipe with fewer bits',
        )


def check_budget(recipe: Recipe, calibration: Calibration) -> None:
    """Refuse a budget where a recipe has no types to choose, and one without calibration.

    Raises `RecipeError`.
    """
    if recipe.budget is None:
        return
    asked = recipe.budget.label
    if not has_types(recipe):
        raise RecipeError(
            f"a budget ({asked}) for {recipe.name}, which stores all weights in {recipe.bits} bits",
            fix=f"remove the budget of {recipe.name}, or choose a recipe with fewer bits",
        )
    if recipe.name == "coreml-palettized4":
        raise RecipeError(
            f"a budget ({asked}) for {recipe.name}: types are chosen among blocks, and it has tables",
            fix=f"choose coreml-int4, or remove the budget of {recipe.name}",
        )
    if calibration == "none":
        raise RecipeError(
            f'a budget ({asked}) with calibration "none": types are chosen by sensitivities, which a calibration '
            "measures",
            fix='choose calibration "light" or "full", or remove the budget',
        )
