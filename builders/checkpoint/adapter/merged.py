"""`MergedCheckpoint`: a base and an adapter read as one checkpoint, merged tensor by tensor while they are read.

Nothing is written: each tensor is read from the base's files, the adapter's product is added, and the result is rounded
to the dtype that the base stores it in, as peft's `merge_and_unload` does with a model of that dtype. So a bundle of
base and adapter has the weights of the bundle of the checkpoint that peft would have saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.adapter.changes import TensorChange, blocks
from builders.checkpoint.adapter.folder import Adapter, open_adapter
from builders.checkpoint.adapter.plan import plan
from builders.checkpoint.checkpoint import Checkpoint, read_json
from builders.checkpoint.rows import in_canonical_order
from builders.checkpoint.sources import ShardSource, TensorSource
from builders.phases import Phases
from registry.bundle.manifest import AdapterEntry, merged_digest
from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.errors import CheckpointError
from targets.layouts import sources_of

_NOT_COMPARED = frozenset({"transformers_version", "_from_model_config"})  # of generation_config.json


@dataclass(frozen=True)
class MergedCheckpoint(Checkpoint):
    """A base with an adapter merged into it. All that takes a `Checkpoint` takes this.

    `path` is the base's. The truth to hold it to is peft's own merge of transformers' model, from the two folders:

        model = AutoModelForCausalLM.from_pretrained(checkpoint.base.path, dtype="auto")
        model = PeftModel.from_pretrained(model, checkpoint.adapter.path).merge_and_unload().float()

    and the tokenizer of `checkpoint.tokenizer_folder`. The base is loaded in its own dtype, since the merge is rounded
    to it, and computes in float32 afterwards. Where the vocabulary was resized, peft wants the base resized first:
    `model.resize_token_embeddings(checkpoint.architecture.vocabulary_size)`. With a model of the first layers only,
    peft leaves out the adapter's tensors of the others; it raises an error where none are left.
    """

    base: Checkpoint = field(kw_only=True)
    adapter: Adapter = field(kw_only=True)
    changes: Mapping[str, TensorChange] = field(kw_only=True)

    def open_tensors(self, phases: Phases | None = None) -> TensorSource:
        """Open a source of the merged weights: see `Checkpoint.open_tensors`."""
        phases = phases or Phases()
        return MergedSource(self, super().open_tensors(phases), phases)

    @property
    def tokenizer_folder(self) -> Path:
        """The adapter's folder where it brings a tokenizer, else the base's."""
        return self.adapter.path if self.adapter.tokenizer_files else self.base.tokenizer_folder

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the bundle should know."""
        whose = "the adapter's" if self.adapter.tokenizer_files else "the base's"
        return (*self.base.notes, f"an adapter is merged into the base; tokenizer and chat template are {whose}")

    @property
    def merged_from(self) -> AdapterEntry:
        """The base and the adapter."""
        return AdapterEntry(base=self.base.digest, adapter=self.adapter.digest)

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of the digests of base and adapter."""
        return merged_digest(self.base.digest, self.adapter.digest)

    def require_unchanged(self) -> None:
        """Look at the files of both again: see `Checkpoint.require_unchanged`."""
        self.base.require_unchanged()
        self.adapter.require_unchanged()

    def stored_dtype(self, name: str) -> str:
        """Return the base's dtype of a tensor, which the merged one is rounded to."""
        change = self.changes.get(name)
        return super().stored_dtype(name) if change is None else change.dtype

    def stored_rows(self, name: str, first: int, last: int) -> Iterator[NDArray[Any]]:
        """Yield merged rows in the stored dtype: see `Checkpoint.stored_rows`."""
        if name not in self.changes:
            yield from super().stored_rows(name, first, last)
            return
        dtype, values = self.stored_dtype(name), self.open_tensors().stored_tensor(name)[first:last]
        if dtype == "BF16":
            yield values.astype(ml_dtypes.bfloat16).view(np.uint16)
        else:
            yield values.astype(np.float16) if dtype == "F16" else values


class MergedSource:
    """Reads a base through another source, and merges what it reads. Implements `TensorSource`.

    Memory: the tensor that is returned, the adapter's factors of it, and the product of a block of rows. `base` must
    return new arrays: they are changed in place.
    """

    def __init__(self, checkpoint: MergedCheckpoint, base: TensorSource, phases: Phases) -> None:
        self._checkpoint = checkpoint
        self._architecture = checkpoint.architecture
        self._base = base
        self._adapter = ShardSource(checkpoint.architecture, checkpoint.adapter.tensors, phases=phases)
        self._phases = phases

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by its canonical name: see `TensorSource`."""
        shape = self._architecture.tensor_shapes()[name]
        sources = sources_of(self._architecture, name, shape)
        if sources.order == "as stored" or not any(part in self._checkpoint.changes for part, _ in sources.parts):
            values, start = self._base.tensor(name), 0
            for part, (height, *_) in sources.parts:
                self._merge(part, values[start : start + height])
                start += height
            return values
        values, start = np.empty(shape, np.float32), 0
        for part, (height, *_) in sources.parts:
            stored, rows = self.stored_tensor(part), values[start : start + height]
            for canonical, taken in in_canonical_order(rows, stored, sources.order, self._architecture):
                canonical[...] = taken
            start += height
        return values

    def stored_tensor(self, name: str) -> NDArray[np.float32]:
        """Read one tensor by the base's own name: see `TensorSource`."""
        values = self._base.stored_tensor(name)
        self._merge(name, values)
        return values

    def rows(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read rows of a stored matrix: see `TensorSource`."""
        values = self._base.rows(name, ids)
        change = self._checkpoint.changes.get(name)
        if change is not None:
            height = self._checkpoint.stored_tensors[name].shape[0]
            with self._phases.phase("transform"):
                change.apply_to(values.reshape(ids.size, -1), ids.reshape(-1), height, self._adapter.stored_tensor)
            self._check(name, values)
        return values

    def _merge(self, name: str, values: NDArray[np.float32]) -> None:
        """Change a tensor in place, if the adapter changes it."""
        change = self._checkpoint.changes.get(name)
        if change is not None:
            with self._phases.phase("transform", values.nbytes):
                change.apply(values, self._adapter.stored_tensor)
            self._check(name, values)

    def _check(self, name: str, values: NDArray[np.float32]) -> None:
        for start, stop in blocks(len(values)):
            rows = values[start:stop]
            if np.isfinite(rows).all():
                continue
            raise CheckpointError(
                f"{self._checkpoint.adapter.weights_file}: merged with it, tensor {name!r} of {self._checkpoint.path} "
                f"holds {rows[~np.isfinite(rows)][0]}",
                fix="the adapter's training diverged, or it belongs to another base: use another adapter",
            )


def merge(base: Checkpoint, folder: Path) -> MergedCheckpoint:
    """Open an adapter's folder and match it with a base, checking all that can be checked without reading weights.

    Raises:
        CheckpointError: the adapter is damaged, incomplete, or of another base.
        UnsupportedModelError: a kind of adapter, or a key of its config, that can't be merged.
    """
    adapter = open_adapter(folder)
    matched = plan(base, adapter)
    architecture = matched.architecture
    _check_copies(base, adapter, architecture)
    sizes = {"vocab_size": architecture.vocabulary_size, "tie_word_embeddings": architecture.tied_embeddings}
    known = {"vocab_size": base.architecture.vocabulary_size, "tie_word_embeddings": base.architecture.tied_embeddings}
    return MergedCheckpoint(
        path=base.path,
        config=base.config | {key: value for key, value in sizes.items() if value != known[key]},
        generation_config=base.generation_config,
        architecture=architecture,
        shard_files=(*base.shard_files, adapter.weights_file),
        stored_tensors=matched.stored,
        past_cache=base.past_cache,
        base=base,
        adapter=adapter,
        changes=matched.changes,
    )


def _check_copies(base: Checkpoint, adapter: Adapter, merged: Architecture) -> None:
    """Refuse configs in the adapter's folder that say another model than the merged one: which holds is not known."""
    path = adapter.path / "config.json"
    if path.is_file():
        own, expected = asdict(read_architecture(read_json(path, required=True))), asdict(merged)
        for key, value in expected.items():
            if own[key] != value:
                raise CheckpointError(
                    f"{path}: {key} is {own[key]}, the merged model has {value}",
                    fix="name the base that the adapter was trained on, or remove the file if it does not belong to it",
                )
    path = adapter.path / "generation_config.json"
    if path.is_file():
        given, known = read_json(path, required=True), base.generation_config
        for key in sorted((set(given) | set(known)) - _NOT_COMPARED):
            if given.get(key) != known.get(key):
                raise CheckpointError(
                    f"{path}: {key} is {given.get(key)!r}, the base's generation_config.json has {known.get(key)!r}; "
                    "transformers reads the base's",
                    fix="copy the one that is right into the base's folder, and remove the adapter's",
                )
