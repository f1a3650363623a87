"""Small GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_gguf(path: Path, arrays: dict[str, np.ndarray[Any, Any]], **keys: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "phi3")
    for key, value in keys.items():
        writer.add_string(key.replace("_", "."), value)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "déf"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.0])
    writer.add_bool("general.flag", True)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
