"""transformers' own model of a checkpoint's folder, in float32: what every answer of ours is held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import open_checkpoint


def transformers_model(folder: Path) -> Any:
    """Return the model, loaded from the folder by the class of its own architecture."""
    import torch
    import transformers

    kind = getattr(transformers, open_checkpoint(folder).architecture.name)
    config = kind.config_class.from_dict(longrope_renamed(json.loads((folder / "config.json").read_bytes())))
    return kind.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager").eval()


def auto_model(folder: Path) -> Any:
    """Return the model that a user gets: the folder is read by transformers alone, and no code of it is run."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def transformers_logits(folder: Path, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the logits of one sequence, [T, vocabulary] of [T], or of several, [N, T, vocabulary] of [N, T]."""
    import torch

    model = transformers_model(folder)
    with torch.inference_mode():
        # One sequence at a time: longrope looks at the longest of a batch.
        rows = [model(torch.from_numpy(row[None]), use_cache=False).logits[0].numpy() for row in np.atleast_2d(tokens)]
    return np.stack(rows) if tokens.ndim > 1 else rows[0]


def longrope_renamed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with today's name of longrope: transformers 5.24 fails to load the first one, `su`.

    Its Phi3Config means to rename it, as 4.57 does, but first looks for `original_max_position_embeddings` by the new
    name alone. `test_transformers_5.py` notices when that is fixed.
    """
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("type") != "su":
        return config
    return config | {"rope_scaling": scaling | {"type": "longrope"}}
