"""`Checkpoint`: config, tokenizer files, where the weights lie, and the digest of its content that names it.

`open_checkpoint` checks all of it without reading weights; `sources.py` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from builders.checkpoint import shards
from builders.checkpoint.folder_check import check_folder
from builders.checkpoint.sources import ShardSource, TensorSource
from builders.checkpoint.tensor_check import check_tensors
from builders.checkpoint.tokenizer_files import (
    check_tokenizer_files,
    default_chat_template,
    read_chat_templates,
    tokenizer_files,
)
from builders.checkpoint.unchanged import FileStates, require_same, states_of
from builders.checkpoint.weight_files import WeightFiles, find_weights
from builders.phases import Phases
from registry.bundle.manifest import AdapterEntry
from registry.files.digests import digest_of_file
from targets.architecture import Architecture
from targets.bounded_file import TooLargeError, read_at_most
from targets.config_json import read_architecture
from targets.errors import CheckpointError
from targets.strict_json import parse_json

_JSON_BYTES_LIMIT = 256 << 20  # the largest tokenizer.json has some 30 MB


@dataclass(frozen=True)
class Checkpoint:
    """The facts of a checkpoint whose headers have been checked. Weights are read through `open_tensors`."""

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    architecture: Architecture
    shard_files: tuple[Path, ...]
    stored_tensors: Mapping[str, shards.StoredTensor]  # by the checkpoint's own names
    past_cache: bool = False  # too large for this machine's page cache: files are read past it
    weight_notes: tuple[str, ...] = ()  # on files and tensors that are not read
    seen: FileStates = field(default_factory=dict)  # its files as they were opened

    def open_tensors(self, phases: Phases | None = None) -> TensorSource:
        """Open a source of the weights, with file mappings of its own. `phases`: counts the time of reading."""
        return ShardSource(self.architecture, self.stored_tensors, past_cache=self.past_cache, phases=phases)

    def stored_dtype(self, name: str) -> str:
        """Return the dtype that a tensor is stored in, as safetensors spells it, by the checkpoint's own name."""
        return self.stored_tensors[name].dtype

    def stored_rows(self, name: str, first: int, last: int) -> Iterator[NDArray[Any]]:
        """Yield rows of a tensor in the stored dtype (bfloat16 as its uint16 bits), by the checkpoint's own name."""
        mapped = shards.MappedTensors(self.stored_tensors)
        yield mapped.stored(name)[first:last]
        mapped.release(name)

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer's files and the chat template."""
        return self.path

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a bundle should know about what it was built from."""
        return self.weight_notes

    @property
    def tokenizer_files(self) -> dict[str, Path]:
        """The tokenizer's files that are there, by their paths in the folder."""
        return tokenizer_files(self.tokenizer_folder)

    @property
    def merged_from(self) -> AdapterEntry | None:
        """The base and the adapter, where this is a merge of two (`adapter/`); else None."""
        return None

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """`tokenizer_config.json`, empty where there is none."""
        return read_json(self.tokenizer_folder / "tokenizer_config.json", required=False)

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template, as transformers chooses it. Raises `CheckpointError` as `default_chat_template`."""
        return default_chat_template(self.tokenizer_folder, self.tokenizer_config)

    @property
    def other_chat_templates(self) -> tuple[str, ...]:
        """Names of further chat templates, such as `tool_use`."""
        return tuple(sorted(read_chat_templates(self.tokenizer_folder, self.tokenizer_config).keys() - {"default"}))

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of the sorted list of content files and their own digests. Reads every byte, once.

        Raises `CheckpointError` where a file is no longer what was opened.
        """
        past_cache = frozenset(self.shard_files if self.past_cache else ())
        lines = sorted(
            f"{file.relative_to(self.path).as_posix()} {digest_of_file(file, past_cache=file in past_cache)}\n"
            for file in (*_text_files(self.path), *self.shard_files)
            if file.is_file()
        )
        self.require_unchanged()
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

    def require_unchanged(self) -> None:
        """Look at the files again, before anything is kept under this checkpoint's digest.

        Raises:
            CheckpointError: one is no longer what was opened.
        """
        if self.seen:
            require_same(self.seen, states_of((*_text_files(self.path), *self.shard_files)))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a Hugging Face checkpoint folder and check all that can be checked without reading weights.

    Raises:
        CheckpointError: a file, shard or tensor is missing, damaged, or contradicts the config.
        UnsupportedModelError: another architecture, rope or dtype than phipack builds from.
    """
    check_folder(folder)
    seen = states_of(_text_files(folder))
    config = read_json(folder / "config.json", required=True)
    architecture = read_architecture(config)
    weights = find_weights(folder)
    seen = {**seen, **states_of(weights.files)}
    found: dict[str, shards.StoredTensor] = {}
    for file in weights.files:
        for tensor in shards.read_header(file):
            if tensor.name in found:
                raise CheckpointError(
                    f"{folder}: tensor {tensor.name!r} is in both {found[tensor.name].file.name} and {file.name}",
                    fix="remove the file that does not belong to this checkpoint, or download all of it again",
                )
            found[tensor.name] = tensor
    _compare_with_index(folder, found, weights)
    stored, notes = check_tensors(folder, found, architecture)
    check_tokenizer_files(folder)
    return Checkpoint(
        path=folder,
        config=config,
        generation_config=read_json(folder / "generation_config.json", required=False),
        architecture=architecture,
        shard_files=weights.files,
        stored_tensors=stored,
        past_cache=shards.too_large_to_keep(stored),
        weight_notes=(*weights.notes, *notes),
        seen=seen,
    )


def _text_files(folder: Path) -> list[Path]:
    """Return the files other than weights that are in a checkpoint's digest, there or not."""
    return [folder / "config.json", folder / "generation_config.json", *tokenizer_files(folder).values()]


def _compare_with_index(folder: Path, found: Mapping[str, shards.StoredTensor], weights: WeightFiles) -> None:
    index = weights.index
    if index is None:
        return
    if unlisted := [name for name in found if name not in index]:
        raise CheckpointError(
            f"{folder}: tensor {unlisted[0]!r} is in {found[unlisted[0]].file.name}, but not in the index",
            fix="download the checkpoint again",
        )
    for name, shard in index.items():
        if name not in found or found[name].file.name != shard:
            raise CheckpointError(
                f"{folder}: the index puts tensor {name!r} in {shard}, where it is not",
                fix="download the checkpoint again",
            )


def read_json(path: Path, *, required: bool) -> dict[str, Any]:
    """Read a file that holds a JSON object. Returns an empty one where it is absent and not required.

    Raises:
        CheckpointError: it is missing, damaged, or holds something else.
    """
    try:
        content = parse_json(read_at_most(path, _JSON_BYTES_LIMIT), ours=False)
    except FileNotFoundError:
        if required:
            raise CheckpointError(f"{path} is missing", fix="name the folder of a Hugging Face checkpoint") from None
        return {}
    except TooLargeError as error:
        raise CheckpointError(f"{path}: {error}", fix="download it again from the model's repository") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not valid JSON: {error}", fix="download it again from the model's repository"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: a JSON object was expected", fix="download it again from the model's repository"
        )
    return content
