"""Two layers with Phi-3-mini's widths, of tiles of the real model's matrices: whether a choice holds at full width.

Random weights can't show what calibration brings: nothing in them is larger than anything else. Here each matrix is
laid out with tiles of the dithered model's matrices of its kind, each tile from another layer, scaled to keep the size
of the outputs. Rows, columns and norms are thus as uneven as a trained model's. The embedding's tiles have their rows
shifted against each other, so that the width is really used. What it computes means nothing: only the order in which
methods come out counts.

For that its answers must depend on the tokens. Of tiles alone, 97 % of the hidden state's energy is one vector, the
same for all tokens, so that one error of that vector decides all answers at once, and a mean over tokens is as good as
a single draw. So the embedding's columns have a mean of zero, branches are small enough that the tokens stay visible,
and the last norm keeps logits from saturating. Constants were chosen on the float model alone: 27 % of the energy is
common to all tokens, and 256 tokens have 165 likeliest next ones.

    CACHE/real-model/smollm2-wide-centred/
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devtools.dithered import ensure_dithered
from devtools.packages import default_cache
from devtools.phi3_from_gguf import write_json
from devtools.synthetic import CONFIGS
from registry.files.staging import staged_folder

LAYERS = 2
_BRANCHES = np.float32(0.2)  # what o_proj and down_proj are multiplied by
_LOGITS = np.float32(0.4)  # what the last norm's gains are multiplied by
_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
Floats = NDArray[np.float32]
Stored = dict[str, NDArray[np.float16]]


def ensure_wide(cache: Path | None = None) -> Path:
    """Return the path of the checkpoint's folder; it is made the first time."""
    cache = default_cache() if cache is None else cache
    folder = cache / "real-model" / "smollm2-wide-centred"
    if not (folder / "config.json").is_file():
        write_wide(ensure_dithered(cache), folder)
    return folder


def write_wide(checkpoint: Path, folder: Path) -> None:
    """Write the model of tiles of a tied `Phi3ForCausalLM` checkpoint. The same checkpoint gives the same copy."""
    from safetensors.numpy import load_file, save_file

    config = json.loads((checkpoint / "config.json").read_bytes())
    wide = config | {name: CONFIGS["mini"][name] for name in _WIDTHS} | {"num_hidden_layers": LAYERS}
    stored = load_file(checkpoint / "model.safetensors")
    tiles = Tiles(stored, config["num_hidden_layers"], wide["hidden_size"])
    weights = {
        "model.embed_tokens.weight": tiles.embedding(),
        "model.norm.weight": _LOGITS * _repeated(stored["model.norm.weight"].astype(np.float32), wide["hidden_size"]),
    }
    head = config["hidden_size"] // config["num_attention_heads"]
    parts = [config["num_attention_heads"] * head, *[config["num_key_value_heads"] * head] * 2]
    inner = wide["intermediate_size"]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": tiles.norm("input_layernorm"),
            prefix + "post_attention_layernorm.weight": tiles.norm("post_attention_layernorm"),
            prefix + "self_attn.qkv_proj.weight": tiles.matrix("self_attn.qkv_proj", parts, [wide["hidden_size"]] * 3),
            prefix + "self_attn.o_proj.weight": _BRANCHES * tiles.matrix("self_attn.o_proj"),
            prefix + "mlp.gate_up_proj.weight": tiles.matrix(
                "mlp.gate_up_proj", [config["intermediate_size"]] * 2, [inner] * 2
            ),
            prefix + "mlp.down_proj.weight": _BRANCHES * tiles.matrix("mlp.down_proj", columns=inner),
        }
    with staged_folder(folder, replace=True) as staging:
        for file in checkpoint.iterdir():
            if file.name not in ("model.safetensors", "origin.json", "config.json"):
                shutil.copyfile(file, staging / file.name)
        write_json(staging / "config.json", wide)
        save_file(
            {name: values.astype(np.float16) for name, values in weights.items()},
            staging / "model.safetensors",
            metadata={"format": "pt"},
        )


class Tiles:
    """Matrices of the wide model, laid out with a small one's layers in turn."""

    def __init__(self, stored: Stored, layers: int, width: int) -> None:
        self.stored = stored
        self.layers = layers
        self.width = width
        self.taken = 0

    def embedding(self) -> Floats:
        """Return the embedding, without its columns' means: each tile's rows shifted by a seventh of them more."""
        one = self.stored["model.embed_tokens.weight"].astype(np.float32)
        one -= one.mean(axis=0)
        count = -(-self.width // one.shape[1])
        tiles = [np.roll(one, number * len(one) // 7, axis=0) for number in range(count)]
        return np.concatenate(tiles, axis=1)[:, : self.width]

    def norm(self, kind: str) -> Floats:
        """Return a norm's gains: those of a layer, repeated."""
        return _repeated(self._next(kind), self.width)

    def matrix(
        self, kind: str, heights: list[int] | None = None, rows: list[int] | None = None, columns: int = 0
    ) -> Floats:
        """Return a matrix whose parts have `heights` in the small model and `rows` here: by default one, and all."""
        columns = columns or self.width
        small = self.stored[f"model.layers.0.{kind}.weight"].shape
        heights, rows = heights or [small[0]], rows or [self.width]
        starts = np.cumsum([0, *heights])
        whole = []
        for start, height, wanted in zip(starts, heights, rows, strict=False):
            bands = []
            for _ in range(-(-wanted // height)):
                band = [self._next(kind)[start : start + height] for _ in range(-(-columns // small[1]))]
                bands.append(np.concatenate(band, axis=1)[:, :columns])
            whole.append(np.concatenate(bands)[:wanted])
        return np.concatenate(whole) * np.float32((small[1] / columns) ** 0.5)

    def _next(self, kind: str) -> Floats:
        """Return the tensor of a kind of the next layer in turn."""
        layer = self.taken % self.layers
        self.taken += 1
        return self.stored[f"model.layers.{layer}.{kind}.weight"].astype(np.float32)


def _repeated(values: Floats, width: int) -> Floats:
    return np.resize(values, width)
