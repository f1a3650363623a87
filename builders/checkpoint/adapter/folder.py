"""An adapter's folder: what it holds, and the digest of what decides.

    ADAPTER/
      adapter_config.json           read by `config.py`
      adapter_model.safetensors     the tensors; `plan.py` matches them with the base
      tokenizer.json …              where it is there, the tokenizer of the merged model, chat template included
      config.json, generation_config.json    some trainers copy the base's: they must say the same as the base's
      optimizer.pt, training_args.bin …      of the training run: never opened

Any other file of weights is refused: what it holds may be missing from the merged model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from builders.checkpoint import shards
from builders.checkpoint.adapter.config import AdapterConfig, read_adapter_config
from builders.checkpoint.folder_check import ADAPTER_CONFIG, refuse_lfs_pointer
from builders.checkpoint.tokenizer_files import TOKENIZER_MODELS, has_tokenizer_model, tokenizer_files
from builders.checkpoint.unchanged import FileStates, require_same, states_of
from registry.files.digests import digest_of_file
from targets.errors import CheckpointError
from targets.stated_path import fix_for

WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"
# A training run's own files, whatever they hold. peft too reads only the safetensors file where both are there.
_OF_TRAINING = re.compile(
    r"(training_args\.bin|optimizer\.(pt|bin)|scheduler\.(pt|bin)|scaler\.pt|rng_state.*\.pth|adapter_model\.bin)"
)
_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin.index.json", *shards.PICKLE_SUFFIXES)


@dataclass(frozen=True)
class Adapter:
    """A LoRA as peft saved it: its config, and where its tensors lie, by the names in the file."""

    path: Path
    config: AdapterConfig
    tensors: Mapping[str, shards.StoredTensor]
    seen: FileStates  # its files as they were opened

    @property
    def weights_file(self) -> Path:
        """The file of the tensors."""
        return self.path / WEIGHTS_NAME

    @property
    def tokenizer_files(self) -> dict[str, Path]:
        """The tokenizer's files that are there, by their paths in the folder; empty where the adapter brings none."""
        return tokenizer_files(self.path)

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of the sorted list of the files that decide, and their own digests. Reads every byte, once."""
        lines = sorted(
            f"{file.relative_to(self.path).as_posix()} {digest_of_file(file)}\n" for file in _files(self.path)
        )
        self.require_unchanged()
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

    def require_unchanged(self) -> None:
        """Raise `CheckpointError` where a file is no longer what was opened."""
        require_same(self.seen, states_of(_files(self.path)))


def _files(folder: Path) -> list[Path]:
    """Return the files that decide."""
    return [folder / ADAPTER_CONFIG, folder / WEIGHTS_NAME, *tokenizer_files(folder).values()]


def open_adapter(folder: Path) -> Adapter:
    """Open a folder that peft's `save_pretrained` wrote, and check all that can be checked without the base.

    Raises:
        CheckpointError: it is no adapter, or a file is missing, damaged, pickled or a pointer of git-lfs.
        UnsupportedModelError: another kind of adapter than a plain LoRA or DoRA, or a key that is not supported.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder", fix=fix_for(folder, "name the folder of a peft adapter"))
    if not (folder / ADAPTER_CONFIG).is_file():
        raise _not_an_adapter(folder)
    weights, seen = folder / WEIGHTS_NAME, states_of(_files(folder))
    for path in _files(folder):
        refuse_lfs_pointer(path)
    config = read_adapter_config(folder)
    if not weights.is_file():
        raise _no_weights(folder)
    for path in sorted(folder.iterdir()):
        known = path.name == WEIGHTS_NAME or _OF_TRAINING.fullmatch(path.name)
        if path.name.endswith(_WEIGHT_SUFFIXES) and not known:
            raise CheckpointError(
                f"{path}: peft does not read this file from an adapter's folder: what it holds would be left out",
                fix=f"remove it if it does not belong to the adapter; otherwise merge it into {WEIGHTS_NAME}",
            )
    _check_tokenizer(folder)
    return Adapter(folder, config, {tensor.name: tensor for tensor in shards.read_header(weights)}, seen)


def _not_an_adapter(folder: Path) -> CheckpointError:
    below = next((path.parent for path in sorted(folder.glob(f"*/{ADAPTER_CONFIG}"))), None)
    if below is not None:
        return CheckpointError(
            f"{folder}: no {ADAPTER_CONFIG}; there is one in {below}", fix=f"name it: --adapter {below}"
        )
    if (folder / "config.json").is_file():
        return CheckpointError(
            f"{folder} is a whole checkpoint, not an adapter: no {ADAPTER_CONFIG}",
            fix=f"build it by itself: phipack build {folder} --recipe …",
        )
    return CheckpointError(
        f"{folder} is no adapter: no {ADAPTER_CONFIG}", fix="name the folder that peft's save_pretrained wrote"
    )


def _no_weights(folder: Path) -> CheckpointError:
    if (folder / PICKLE_NAME).is_file():
        return CheckpointError(
            f"{folder / PICKLE_NAME}: weights are pickled; reading a pickle can run code, so phipack refuses it",
            fix=f"if you trust it, load it with peft and save it again: save_pretrained writes {WEIGHTS_NAME}",
        )
    return CheckpointError(
        f"{folder}: no {WEIGHTS_NAME}", fix="download the adapter again, or save it with peft's save_pretrained"
    )


def _check_tokenizer(folder: Path) -> None:
    """Refuse a part of a tokenizer: whether it goes with the base's files can't be known."""
    found = tokenizer_files(folder)
    if found and not has_tokenizer_model(folder):
        raise CheckpointError(
            f"{folder}: {', '.join(found)} without {' or '.join(TOKENIZER_MODELS)}: only a part of a tokenizer",
            fix="save the whole tokenizer into the adapter's folder (tokenizer.save_pretrained), or, if the base's is "
            "the right one, remove the part",
        )
