"""A graph that optimum exported, run: the logits of a first read, with an empty cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def exported_logits(folder: Path, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the logits after each token, [T, vocabulary] of [T]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    feeds: dict[str, Any] = {"input_ids": tokens[None], "attention_mask": np.ones_like(tokens[None])}
    if "position_ids" in inputs:
        feeds["position_ids"] = np.arange(len(tokens))[None]
    for name, (_, heads, _, width) in ((name, shape) for name, shape in inputs.items() if name not in feeds):
        feeds[name] = np.zeros((1, heads, 0, width), np.float32)
    return session.run(["logits"], feeds)[0][0]
