"""A checkpoint as optimum's transformers 4 reads it: links to its files, and config.json in transformers 4's form.

transformers 4 ignores keys that it does not know, and takes a default instead. What it would misread is written in its
own keys, or refused by name:

| in config.json | in transformers 4 |
|---|---|
| `rope_parameters.rope_theta` | `rope_theta`, `rotary_emb_base` in GPT-NeoX |
| `rope_parameters.partial_rotary_factor` | `partial_rotary_factor`, `rotary_pct` in GPT-NeoX |
| the rest of `rope_parameters`, unless the type is `default` | `rope_scaling` |
| `rope_parameters` of each type of layer, or within another object | refused |
| longrope (`su`) and `dynamic`, of any version | refused: optimum keeps the factors of the length that it traces |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from builders.checkpoint import read_json
from targets.errors import UnsupportedModelError

CONFIG = "config.json"
_ROPES = ("rope_parameters", "rope_scaling")
_FROZEN = ("longrope", "su", "dynamic")  # their factors follow the length of the text
_OWN_NAMES = {
    model_type: {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    for model_type in ("gpt_neox", "gpt_neox_japanese")
}


def link_for_transformers_4(checkpoint: Path, folder: Path) -> None:
    """Fill an empty folder with links to a checkpoint's files, and with its config in transformers 4's form.

    Raises:
        CheckpointError: the config can't be read.
        UnsupportedModelError: optimum would export it wrongly, or transformers 4 has no key for what it says.
    """
    config = read_json(checkpoint / CONFIG, required=True)
    translated = translate(config, checkpoint / CONFIG)
    for path in checkpoint.iterdir():
        if path.name != CONFIG:
            (folder / path.name).symlink_to(path.absolute())
    (folder / CONFIG).write_text(json.dumps(translated, indent=2), "utf-8")


def translate(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a config with the rope in transformers 4's keys. `path`: the file's, for messages.

    Raises `UnsupportedModelError` as `link_for_transformers_4` does.
    """
    for where, each in _ropes(config):
        _refuse_frozen(where, each, config, path)
    if any(isinstance(value, dict) and value.get("rope_parameters") is not None for value in config.values()):
        _refuse_to_translate(path, "rope_parameters within another object")
    translated = {key: value for key, value in config.items() if key != "rope_parameters"}
    rope = config.get("rope_parameters")
    if rope is None:
        return translated
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        _refuse_to_translate(path, "a rope for each type of layer in rope_parameters")
    return translated | _v4_rope(rope, _OWN_NAMES.get(str(config.get("model_type")), {}))


def _v4_rope(rope: Mapping[str, Any], own_names: Mapping[str, str]) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    outside = ("rope_theta", "partial_rotary_factor")
    written = {own_names.get(key, key): rope[key] for key in outside if rope.get(key) is not None}
    rest = {key: value for key, value in rope.items() if key not in (*outside, "type")} | {"rope_type": kind}
    return written | {"rope_scaling": None if kind == "default" else rest}


def _ropes(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every rope that a config has, with its name: its own, of an object within it, or of a type of layer."""
    for outer, inner in (
        ("", config),
        *((f"{key}.", value) for key, value in config.items() if isinstance(value, dict)),
    ):
        for name in _ROPES:
            rope = inner.get(name)
            if isinstance(rope, dict):
                yield outer + name, rope
                yield from ((f"{outer}{name}.{key}", value) for key, value in rope.items() if isinstance(value, dict))


def _refuse_frozen(where: str, rope: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in _FROZEN:
        return
    edge = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    name = "dynamic" if kind == "dynamic" else "longrope"
    short = "the length that it traces" if kind == "dynamic" else "the short factors"
    raise UnsupportedModelError(
        f"{path.parent}: optimum freezes {name} ({where}) to {short}: wrong past {edge or 'the original'} tokens",
        fix="for Phi-3 and Phi-3-small, phipack build --recipe onnx-fp16 writes both sets of factors; for others, no "
        "export is right",
    )


def _refuse_to_translate(path: Path, what: str) -> None:
    raise UnsupportedModelError(
        f"{path}: {what} is transformers 5's; optimum's transformers 4 skips it",
        fix="write what it says as rope_theta and rope_scaling, transformers 4's keys, and remove it",
    )
