"""What an app downloads to get from a base's bundle to the one with an adapter merged into it.

    .venv/bin/python -m benchmarks.adapters [--recipes gguf-q4_0 …] [--out docs/benchmarks/adapters.md] [--scratch DIR]

Adapters of the real 135M model, as peft writes them, with random factors of the size that training leaves. For each and
each recipe: the bytes downloaded over loopback HTTP onto the base's bundle, by chunks and with a delta file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.deltas import fetched, run_benchmark
from benchmarks.nudged import unchanged, write_version
from builders.build import build
from builders.checkpoint import Checkpoint
from builders.checkpoint.adapter import merge
from builders.checkpoint.writing import TensorToWrite, write_safetensors
from devtools import real_model
from registry.transfer.delta_writer import make_delta
from targets.formatting import share, size
from targets.recipes import recipe_named

HEAD = """\
SmolLM2-135M as Phi3ForCausalLM in float32, and adapters of it as peft writes them, merged while building. Their factors
are random, so that the product's deviation is 1 % of each matrix's, which is a long fine-tune. The app has the base's
bundle and fetches the merged one over loopback HTTP.

*File*: size of the adapter's. *Chunks*: bytes downloaded without a delta, manifest included. *With delta*: bytes
downloaded with one, and their share of the *bundle*.
"""
RECIPES = ("gguf-q4_0", "gguf-q4_k_m", "onnx-int4", "coreml-int4")
COLUMNS = ("recipe", "adapter", "file", "bundle", "chunks", "with delta", "share")
RELATIVE = 1e-2


@dataclass(frozen=True)
class Shape:
    """An adapter: its rank, and the modules with a product."""

    rank: int
    modules: tuple[str, ...]


SHAPES = {
    "rank 16, attention": Shape(16, ("qkv_proj", "o_proj")),
    "rank 16, all linear": Shape(16, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "rank 64, all linear": Shape(64, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "rank 16, last 4 layers": Shape(16, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
}
LAST = 4


def write_adapter(base: Checkpoint, name: str, out: Path) -> Path:
    """Write an adapter's folder: random factors, whose product has `RELATIVE` of each matrix's deviation."""
    shape, layers = SHAPES[name], base.architecture.layer_count
    first = layers - LAST if name.endswith(f"last {LAST} layers") else 0
    out.mkdir(parents=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": shape.rank, "lora_alpha": shape.rank}
    config |= {"target_modules": list(shape.modules), "layers_to_transform": list(range(first, layers))}
    (out / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    source, tensors = base.open_tensors(), []
    for tensor, entry in base.stored_tensors.items():
        parts = tensor.split(".")
        if len(parts) < 5 or int(parts[2]) < first or parts[4] not in shape.modules:
            continue
        factor = (RELATIVE * float(source.stored_tensor(tensor).std()) / shape.rank**0.5) ** 0.5
        stem, (height, width) = f"base_model.model.{tensor.removesuffix('.weight')}", entry.shape
        for part, dimensions in (("lora_A", (shape.rank, width)), ("lora_B", (height, shape.rank))):
            full = f"{stem}.{part}.weight"
            tensors.append(TensorToWrite(full, "F32", dimensions, partial(_factor, full, dimensions, factor)))
    write_safetensors(out / "adapter_model.safetensors", tensors)
    return out


def _factor(name: str, shape: tuple[int, ...], scale: float) -> Iterator[NDArray[np.float32]]:
    seed = int.from_bytes(name.encode()[-8:], "little") + len(name)
    yield np.random.default_rng([seed, *name.encode()]).standard_normal(shape, dtype=np.float32) * np.float32(scale)


def rows(recipes: Sequence[str], scratch: Path) -> list[tuple[object, ...]]:
    """Build all bundles, and measure what each update costs."""
    base = write_version(real_model.ensure().checkpoint, scratch / "base", unchanged)
    merged = {name: merge(base, write_adapter(base, name, scratch / "adapters" / name)) for name in SHAPES}
    found: list[tuple[object, ...]] = []
    for recipe in recipes:
        old = build(base, recipe_named(recipe), scratch / "old")
        for name, checkpoint in merged.items():
            new = build(checkpoint, recipe_named(recipe), scratch / "new")
            delta = make_delta(old, new, scratch / "delta")
            plain, _ = fetched(new, old, scratch / "out", None)
            total, file = new.manifest.total_bytes, checkpoint.adapter.weights_file.stat().st_size
            row: tuple[object, ...] = (recipe, name, size(file), size(total), size(plain))
            if delta is None:
                row += ("not offered", "")
            else:
                came, _ = fetched(new, old, scratch / "out", scratch / "delta")
                row += (size(came), share(came / total))
                (scratch / "delta").unlink()
            found.append(row)
            print(*row, sep="  ", flush=True)
            shutil.rmtree(new.path)
        shutil.rmtree(old.path)
    return found


if __name__ == "__main__":
    run_benchmark(__doc__, HEAD, COLUMNS, RECIPES, rows)
