"""What a package's functions, inputs, states and outputs are called, and how many tokens a call of each takes.

`description.py` says what they mean.
"""

from __future__ import annotations

from targets.architecture import Architecture
from targets.recipes import Recipe

INPUT_IDS = "inputIds"
CAUSAL_MASK = "causalMask"
POSITION = "position"
LONG_FACTORS = "longFactors"
KEY_CACHE = "keyCache"
VALUE_CACHE = "valueCache"
LOGITS = "logits"

MAIN = "main"  # the function that Core ML runs where none is named
PROMPT = "prompt"
PROMPT_CHUNK = 64  # tokens of a prompt that a call takes in fixed shapes: what others use on the Neural Engine

# The package's own metadata.
RECIPE_FACT = "phipack.recipe"
CONTEXT_FACT = "phipack.context_length"
EDGE_FACT = "phipack.longrope_edge"  # the longest sequence in tokens that takes the short factors
CHUNK_FACT = "phipack.prompt_chunk"  # tokens of a call of `prompt`; only packages in fixed shapes have it


def call_lengths(recipe: Recipe, context_length: int) -> dict[str, int | None]:
    """Return how many new tokens a call of each function takes, by its name; None where calls differ."""
    if not recipe.fixed_shapes:
        return {MAIN: None}
    return {MAIN: 1, PROMPT: min(PROMPT_CHUNK, context_length)}


def cache_shape(architecture: Architecture, context_length: int) -> tuple[int, ...]:
    """Return the shape of the key cache, and of the value cache: layers, batch, heads, positions, head size."""
    return (architecture.layer_count, 1, architecture.kv_head_count, context_length, architecture.head_dim)
