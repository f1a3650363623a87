"""Every tensor of a checkpoint is part of the model, known to be harmless, or refused by name.

Harmless are a rotary embedding's own table (`rotary_emb.inv_freq`), which older releases saved and transformers skips,
and a head that repeats the embedding that it is tied to. A table that contradicts `config.json` gets a note: then one
of the two is wrong. A tied head with other values is refused: transformers 4 drops it, transformers 5 uses it.

Sources: `_adjust_missing_and_unexpected_keys` and `tie_weights` of transformers 5.24's `PreTrainedModel`; `tie_weights`
of 4.57's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.shards import MappedTensors, StoredTensor, widen
from builders.checkpoint.tensor_names import OTHER_MODEL, refuse_names
from targets.architecture import Architecture
from targets.errors import CheckpointError
from targets.layouts import stored_shapes

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_ROPE_TABLE = "rotary_emb.inv_freq"
_ROPE_TOLERANCE = 0.01  # relative; bfloat16 rounds to within 0.004
_COMPARED_BYTES = 16 << 20  # at a time


def check_tensors(
    folder: Path, found: Mapping[str, StoredTensor], architecture: Architecture
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Return the tensors that the model is built from, and notes. Only small tensors and a tied head are read.

    Raises:
        CheckpointError: a tensor is missing, is not part of the model, or has another shape than `config.json` says.
    """
    if architecture.layer_count > len(found):  # first: a damaged count could ask for a list of a billion names
        raise CheckpointError(
            f"{folder}: config.json says num_hidden_layers {architecture.layer_count}, "
            f"the weights have {len(found)} tensors",
            fix=OTHER_MODEL,
        )
    expected = stored_shapes(architecture)
    tables = [name for name in found if _ROPE_TABLE in name and name not in expected]
    kept = {name: tensor for name, tensor in found.items() if name not in tables}
    if architecture.tied_embeddings and HEAD in kept and EMBEDDING in kept:
        _check_tied_head(folder, kept)
        del kept[HEAD]
    refuse_names(folder, kept, architecture)
    for name, shape in expected.items():
        if kept[name].shape != shape:
            raise CheckpointError(
                f"{folder}: tensor {name!r} has shape {list(kept[name].shape)}, config.json asks for {list(shape)}",
                fix=OTHER_MODEL,
            )
    return kept, tuple(_rope_notes(found, tables, architecture))


def _check_tied_head(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Check that the head repeats the embedding, byte by byte, reading until the first difference."""
    embedding, head = tensors[EMBEDDING], tensors[HEAD]
    alike = (embedding.dtype, embedding.shape) == (head.dtype, head.shape)
    if alike and _same_bytes(embedding, head):
        return
    raise CheckpointError(
        f'{folder}: config.json says "tie_word_embeddings": true, but {HEAD} is not the same as {EMBEDDING}: '
        "transformers 4 drops the head, transformers 5 uses it",
        fix='set "tie_word_embeddings": false if the head was trained; otherwise remove it from the weights',
    )


def _same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        for start in range(0, one.bytes, _COMPARED_BYTES):
            size = min(_COMPARED_BYTES, one.bytes - start)
            if left.read(size) != right.read(size):
                return False
    return True


def _rope_notes(found: Mapping[str, StoredTensor], tables: list[str], architecture: Architecture) -> Iterator[str]:
    """Yield a note if a table of the rope has other frequencies than `config.json` says."""
    mapped = MappedTensors({name: found[name] for name in tables})
    expected = list(_frequencies(architecture))
    for name in tables:
        values = np.empty(found[name].shape, np.float32)
        widen(mapped.stored(name), found[name].dtype, values)
        mapped.release(name)
        same_shape = [each for each in expected if each.shape == values.shape]
        if any(np.allclose(values, each, rtol=_ROPE_TOLERANCE, atol=0) for each in same_shape):
            continue
        what = f"has shape {list(values.shape)}"
        if same_shape and (theta := _theta_of(values)) is not None:
            what = f"has frequencies of a base of {theta:.3g}"
        yield (
            f"{name} {what}, but config.json has a base of {architecture.rope_theta:.3g}: config.json holds, as in "
            "transformers; check which one the model was trained with"
        )
        return


def _frequencies(architecture: Architecture) -> Iterator[NDArray[np.float32]]:
    """Yield the tables that agree with `config.json`: the plain one, and longrope's."""
    half = architecture.rotary_dim // 2
    rope = architecture.longrope
    plain = architecture.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    for factors in ((), *(() if rope is None else (rope.short, rope.long))):
        yield (plain / np.asarray(factors) if factors else plain).astype(np.float32)


def _theta_of(frequencies: NDArray[np.float32]) -> float | None:
    """Return the base that a table was made with, or None if it is no such table."""
    last = len(frequencies) - 1
    if last < 1 or not 0 < frequencies[last] < 1:
        return None
    theta = math.exp(-math.log(float(frequencies[last])) * len(frequencies) / last)
    again = theta ** (-np.arange(len(frequencies)) / len(frequencies))
    return theta if np.allclose(frequencies, again, rtol=_ROPE_TOLERANCE, atol=0) else None
