"""Which files of a folder are the model's weights. Every other file that looks like weights is accounted for.

transformers looks for these, in this order, and reads the first that is there:

    model.safetensors                  built
    model.safetensors.index.json       built: the shards that it lists
    pytorch_model.bin, or its index    refused: a pickle can run code

Where more than one set of safetensors is there, the folder is refused, since nothing tells which one is meant. What
neither transformers nor phipack reads is named in a note. Source: `_get_resolved_checkpoint_files` of transformers
5.24.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from builders.checkpoint.shards import INDEX_NAME, PICKLE_SUFFIXES, SINGLE_NAME, read_index
from targets.errors import CheckpointError, UnsupportedModelError

# The state of a training run, which trainers (transformers, accelerate, DeepSpeed) save next to the model.
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|trainer_state)[\w.-]*")
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_RANK_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")  # transformers reads these before all others
_NATIVE = re.compile(r"consolidated[\w.-]*\.(safetensors|pth)")  # Mistral's and Meta's own formats
_OTHER_WEIGHTS = (*PICKLE_SUFFIXES, ".gguf", ".h5", ".msgpack")


@dataclass(frozen=True)
class WeightFiles:
    """The files that are built, in the order of their names; the index, if there is one; and what a reader should know.

    `index`: the name of the file of each tensor.
    """

    files: tuple[Path, ...]
    index: Mapping[str, str] | None
    notes: tuple[str, ...]


def find_weights(folder: Path) -> WeightFiles:
    """Find the weights of a checkpoint, and account for each other file that could be its weights.

    Raises:
        CheckpointError: there are none, or only pickled ones, or more than one set; or a shard is missing.
        UnsupportedModelError: the weights are in a format that is not safetensors' usual one.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() or path.is_symlink())
    if ranks := [name for name in names if _RANK_SHARD.fullmatch(name)]:
        raise UnsupportedModelError(
            f"{folder}: {ranks[0]} is a part of a checkpoint of distributed training ({len(ranks)} such)",
            fix="load it with transformers and save it with save_pretrained, or remove these files if they are old",
        )
    index = read_index(folder)
    if SINGLE_NAME in names:
        if index is not None and set(index.values()) != {SINGLE_NAME}:
            raise CheckpointError(
                f"{folder} holds two sets of weights: {SINGLE_NAME}, which transformers loads, and "
                f"{len(set(index.values()))} files that {INDEX_NAME} lists",
                fix=f"remove {SINGLE_NAME}, or {INDEX_NAME} and its files, whichever is not the model",
            )
        built = [SINGLE_NAME]
    elif index is not None:
        built = _listed(folder, index)
    else:
        _refuse_without_weights(folder, names)
    return WeightFiles(tuple(folder / name for name in built), index, _notes(folder, names, built))


def _listed(folder: Path, index: Mapping[str, str]) -> list[str]:
    names = sorted(set(index.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder / INDEX_NAME}: shard name {name[:80]!r} is not a plain .safetensors file name",
                fix="download the index again: it may only name files of its own folder",
            )
        if not _is_file(folder / name):
            raise CheckpointError(
                f"{folder}: shard {name[:80]!r} is missing, though the index names it",
                fix="download the checkpoint again",
            )
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system accepts
        return False


def _notes(folder: Path, names: list[str], built: list[str]) -> tuple[str, ...]:
    """Return a note on files that are not read. Refuse safetensors of which nobody can tell whose they are."""
    skipped = []
    for name in names:
        if name in built or _OF_TRAINING.fullmatch(name):
            continue
        if name.endswith(".safetensors") and not _NATIVE.fullmatch(name):
            raise CheckpointError(
                f"{folder}: {name} is not one of the model's files, which are {_short(built)}",
                fix=f"move {name} out of the folder; if it is part of the model, download its index again",
            )
        if name.endswith((".safetensors", *_OTHER_WEIGHTS)):
            skipped.append(name)
    return (f"not read, as transformers prefers safetensors: {_short(skipped)}",) if skipped else ()


def _refuse_without_weights(folder: Path, names: list[str]) -> NoReturn:
    shards = [name for name in names if _SHARD.fullmatch(name)]
    others = [name for name in names if name.endswith(".safetensors") and name not in shards]
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES) and not _OF_TRAINING.fullmatch(name)]
    if shards:
        whole = _SHARD.fullmatch(shards[0])
        alone = len(shards) == 1 and whole is not None and int(whole[2]) == 1
        raise CheckpointError(
            f"{folder}: {_short(shards)} without {INDEX_NAME}: transformers loads neither",
            fix=f"rename {shards[0]} to {SINGLE_NAME}: it is the only shard"
            if alone
            else f"download {INDEX_NAME} too, from the model's repository",
        )
    if native := [name for name in names if _NATIVE.fullmatch(name)]:
        raise UnsupportedModelError(
            f"{folder}: {_short(native)}: the weights are in the maker's own format, not in transformers'",
            fix="download the repository's files for transformers (Llama: the repository whose name ends with -hf)",
        )
    if pickles:
        raise CheckpointError(
            f"{folder}: weights are pickled ({pickles[0]}); reading a pickle can run code, so phipack refuses it",
            fix="if you trust it, convert it with transformers: model.save_pretrained(..., safe_serialization=True)",
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        raise UnsupportedModelError(
            f"{folder}: {ggufs[0]} is converted and perhaps quantized already",
            fix="use the model's original checkpoint in safetensors",
        )
    seen = f"; {_short(others)} has another name" if others else ""
    raise CheckpointError(
        f"{folder}: no weights: neither {SINGLE_NAME} nor {INDEX_NAME}{seen}",
        fix=f"rename {others[0]} to {SINGLE_NAME}, if it is the model"
        if others
        else "name the folder of a Hugging Face checkpoint",
    )


def _short(names: list[str]) -> str:
    """Return names, or the first of many and their number."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
