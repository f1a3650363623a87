"""A folder like the checkpoint's with fewer layers, so that transformers loads it in little memory.

Only the number of layers is changed. Every weight file and every index is there under its own name, reduced to the
tensors that do not belong to later layers, with the same names, types and bytes. So it is transformers that chooses
among the files, renames, fuses, ties and ignores tensors, as it does with the whole folder.

Two things that transformers 5.24 stumbles over are changed too. The rope type "su" of Phi-3's first releases becomes
"longrope": transformers itself renames it, but checks the keys before, and then refuses what 4 reads. And the rope of
Phi-3-small is left out: it has no class for the model, checks the rope nevertheless, and fails.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from registry.files.owned import private_folder
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from targets.strict_json import parse_json

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken")  # no code, and no pickled weights
_ROPES = ("rope_scaling", "rope_parameters")
_CONFIGS = ("config.json", "generation_config.json")
_PIECE_BYTES = 1 << 22
_TEMPLATES = "additional_chat_templates"
_INDEX_SUFFIX = ".safetensors.index.json"


@contextmanager
def excerpt_of(
    folder: Path, layers: int | None = None, scratch: Path | None = None, *, tokenizer: Path | None = None
) -> Iterator[Path]:
    """Yield a temporary folder with the first layers of a checkpoint, or without weights. It is removed afterwards.

    Disk: these layers, the embedding and the head as they are stored. `scratch`: where the folder is made; by default
    where the system keeps temporary files. `tokenizer`: a folder whose tokenizer is there in place of the checkpoint's,
    as where an adapter brings one.

    Raises:
        BuildError: the disk is full, or a file can't be read.
    """
    if scratch is not None:
        with disk_errors(scratch):
            private_folder(scratch)  # the first to come may be the oracle, and others trust what is there
    with temporary_folder("oracle", scratch) as place:
        with disk_errors(place):
            _fill(place, folder, layers, tokenizer)
        yield place


def _fill(place: Path, folder: Path, layers: int | None, tokenizer: Path | None) -> None:
    for path in _paths(folder, tokenizer):
        if path.name == "config.json":
            config = _readable(parse_json(path.read_bytes(), ours=False))
            config = config if layers is None else _with_fewer_layers(config, layers)
            (place / path.name).write_text(json.dumps(config), "utf-8")
        elif path.name == _TEMPLATES:
            shutil.copytree(path, place / path.name)
        elif path.name.endswith(_INDEX_SUFFIX):
            if layers is not None:
                (place / path.name).write_text(json.dumps(_cut_index(path, layers)), "utf-8")
        elif path.suffix == ".safetensors":
            if layers is not None:
                _cut_weights(path, place / path.name, layers)
        elif path.suffix in _COPIED_SUFFIXES and path.is_file():
            (place / path.name).write_bytes(path.read_bytes())


def _paths(folder: Path, tokenizer: Path | None) -> list[Path]:
    paths = sorted(folder.iterdir())
    if tokenizer is None or tokenizer == folder:
        return paths
    own = [path for path in paths if path.name in _CONFIGS or ".safetensors" in path.name]
    return own + [path for path in sorted(tokenizer.iterdir()) if _is_of_tokenizer(path)]


def _is_of_tokenizer(path: Path) -> bool:
    return path.name == _TEMPLATES or (
        path.suffix in _COPIED_SUFFIXES and path.name not in (*_CONFIGS, "adapter_config.json")
    )


def _readable(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with a rope that transformers can open."""
    if config.get("model_type") == "phi3small":
        return {key: value for key, value in config.items() if key not in _ROPES}
    changed = dict(config)
    for name in _ROPES:
        rope = config.get(name)
        if isinstance(rope, dict):
            changed[name] = rope | {key: "longrope" for key in ("type", "rope_type") if rope.get(key) == "su"}
    return changed


def _with_fewer_layers(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return the config with the number of layers reduced, and with it every list that has an entry a layer."""
    whole = config.get("num_hidden_layers")
    cut = {
        key: value[:layers] if key.startswith("layer") and isinstance(value, list) and len(value) == whole else value
        for key, value in config.items()
    }
    return cut | {"num_hidden_layers": layers}


def _kept(name: str, layers: int) -> bool:
    found = _LAYER.search(name)
    return found is None or int(found[1]) < layers


def _cut_index(path: Path, layers: int) -> dict[str, Any]:
    index: dict[str, Any] = parse_json(path.read_bytes(), ours=False)
    kept = {name: file for name, file in index["weight_map"].items() if _kept(name, layers)}
    return index | {"weight_map": kept}


def _cut_weights(source: Path, destination: Path, layers: int) -> None:
    """Copy a safetensors file without the tensors of later layers. Its bytes are never in memory as a whole."""
    with source.open("rb") as reader, destination.open("wb") as writer:
        length = int.from_bytes(reader.read(8), "little")
        header: dict[str, Any] = parse_json(reader.read(length), ours=False)
        kept = {name: entry for name, entry in header.items() if name != "__metadata__" and _kept(name, layers)}
        written, position = {}, 0
        for name, entry in kept.items():
            start, stop = entry["data_offsets"]
            written[name] = entry | {"data_offsets": [position, position + stop - start]}
            position += stop - start
        if "__metadata__" in header:
            written["__metadata__"] = header["__metadata__"]
        content = json.dumps(written).encode()
        content += b" " * (-len(content) % 8)
        writer.write(len(content).to_bytes(8, "little") + content)
        for entry in kept.values():
            start, stop = entry["data_offsets"]
            reader.seek(8 + length + start)
            _copy(reader, writer, stop - start)


def _copy(reader: BinaryIO, writer: BinaryIO, size: int) -> None:
    while size:
        piece = reader.read(min(size, _PIECE_BYTES))
        if not piece:
            raise EOFError  # the checkpoint's headers were checked: it is being overwritten at this moment
        writer.write(piece)
        size -= len(piece)
