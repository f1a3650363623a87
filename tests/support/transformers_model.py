"""The installed transformers' own model of a folder: the right value for what is read from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS = np.random.default_rng(3).integers(0, 300, 40)


def load_model(folder: Path) -> Any:
    """Load a folder's model in float32, as a user would: no code of the folder is run."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits_of(folder: Path, tokens: NDArray[np.int64] = TOKENS) -> NDArray[np.float32]:
    """Return logits [tokens, vocabulary] of the folder's model."""
    import torch

    with torch.no_grad():
        return load_model(folder)(torch.from_numpy(tokens)[None]).logits[0].numpy()
