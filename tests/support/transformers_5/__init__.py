"""`config.json` as transformers 5.24.0 saves it, from the tiny checkpoints of tests: what it read, in its own form.

Each file NAME.json was saved from `v4_config(NAME)`; Phi-3-small's by a class with the assignments of its repository's
configuration class. `last_logits.json` has, of the same weights in transformers 5.24.0 in float32, the first eight
logits after the last of 40 and of 90 tokens, `TOKENS`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import Tiny

TOKENS = np.random.default_rng(1).integers(0, 320, (1, 90))
SHAPES = {
    "phi3": Tiny(dtype="F32"),
    "phi3_longrope": Tiny(dtype="F32", original_context=64),
    "llama": Tiny(dtype="F32", family="llama"),
    "phi3small": Tiny(family="phi3small"),
    "phi3small_longrope": Tiny(family="phi3small", original_context=64),
}
_THETAS = {"phi3": 25000.0, "phi3_longrope": 25000.0, "llama": 500000.0}


def v4_config(name: str) -> dict[str, Any]:
    """The config as transformers 4 writes it; its rotary base is not the default's."""
    config = SHAPES[name].config()
    return config | {"rope_theta": _THETAS[name]} if name in _THETAS else config


def v5_config(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_bytes())


def last_logits(name: str) -> dict[int, list[float]]:
    found = json.loads((Path(__file__).parent / "last_logits.json").read_bytes())[name]
    return {int(length): logits for length, logits in found.items()}
