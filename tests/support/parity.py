"""What bundles of every format are held to: tiny checkpoints of all shapes, and their float32 logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from builders.build import build
from builders.checkpoint import open_checkpoint
from registry.bundle.folder import Bundle
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny

# Name -> (tokens to read, what the tiny checkpoint has that is out of the ordinary).
EDGE = 64
# Three query heads a key head, three quarters of each rotated, and no head matrix of its own.
LIKE_PHI_4_MINI: dict[str, Any] = {"hidden": 384, "heads": 6, "kv_heads": 2, "rotated": 0.75, "tied": True}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "grouped heads": (60, {}),
    "as many key heads": (60, {"kv_heads": 4}),
    "one layer": (60, {"layers": 1}),
    "heads wider than the hidden size": (60, {"head_dim": 32}),
    "heads narrower than the hidden size": (60, {"head_dim": 16, "heads": 2, "kv_heads": 1}),
    "tied": (60, {"tied": True}),
    "window of 7": (60, {"window": 7}),
    "window of 8": (60, {"window": 8}),
    "window past the text": (60, {"window": 100}),
    "longrope up to its edge": (EDGE, {"original_context": EDGE}),
    "longrope past its edge": (EDGE + 1, {"original_context": EDGE}),
    "longrope far past its edge": (3 * EDGE, {"original_context": EDGE}),
    "bfloat16": (60, {"dtype": "BF16"}),
    "half of a head rotated": (60, {"hidden": 128, "rotated": 0.5}),
    "like Phi-4-mini": (60, LIKE_PHI_4_MINI),
    "like Phi-4-mini, up to longrope's edge": (EDGE, LIKE_PHI_4_MINI | {"original_context": EDGE}),
    "like Phi-4-mini, past longrope's edge": (EDGE + 1, LIKE_PHI_4_MINI | {"original_context": EDGE}),
}
# Of these, what another one has too: `CASES=all`.
FURTHER = (
    "as many key heads",
    "one layer",
    "heads wider than the hidden size",
    "tied",
    "window of 8",
    "window past the text",
    "longrope far past its edge",
    "bfloat16",
    "like Phi-4-mini",
    "like Phi-4-mini, up to longrope's edge",
)
# Float16 weights are kept exactly by onnx-fp16; what is left is attention and its cache in float16.
FP16_TOLERANCE = 0.015


def tiny_bundle(folder: Path, recipe: str, **changes: Any) -> tuple[Path, Bundle]:
    """Write a tiny checkpoint of float16 weights and build it: the checkpoint's folder and the bundle."""
    checkpoint = write_tiny(folder / "checkpoint", **{"dtype": "F16", **changes})
    return checkpoint, build(open_checkpoint(checkpoint), recipe_named(recipe), folder / "bundle")


def some_tokens(count: int, seed: int = 1) -> np.ndarray:
    """Random ids without the special ones."""
    return np.random.default_rng(seed).integers(0, 300, count)
