"""`config.json` as transformers 5.24.0 saves it, from the tiny checkpoints of tests: what it read, in its own form.

Each file NAME.json was saved from `v4_config(NAME)` by `devtools/saved_configs.py`, Phi-3-small's by a class with the
assignments of its repository's configuration class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.checkpoints import Tiny

SHAPES = {
    "phi3": Tiny(dtype="F32"),
    "phi3_longrope": Tiny(dtype="F32", original_context=64),
    "phi3_partial": Tiny(dtype="F32", hidden=384, heads=6, rotated=0.75, original_context=64, tied=True),
    "llama": Tiny(dtype="F32", family="llama"),
    "phi3small": Tiny(family="phi3small"),
    "phi3small_longrope": Tiny(family="phi3small", original_context=64),
}
_THETAS = {"phi3": 25000.0, "phi3_longrope": 25000.0, "phi3_partial": 25000.0, "llama": 500000.0}


def v4_config(name: str) -> dict[str, Any]:
    """The config in the form of transformers 4, as repositories have it; its rotary base is not the default's."""
    shape = SHAPES[name]
    config = shape.config() | {"torch_dtype": {"F32": "float32", "BF16": "bfloat16"}[shape.dtype]}
    return config | {"rope_theta": _THETAS[name]} if name in _THETAS else config


def v5_config(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_bytes())
