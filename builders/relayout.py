"""A checkpoint written in another family's layout: Phi-3 as Llama, for tools that know only Llama, and back.

The weights are the same bytes: Llama keeps the rows of Phi-3's fused matrices as separate tensors. `config.json`
changes; generation settings are copied as they are, and the tokenizer is written so that it stays the same.

Llama has no sliding window, so a Phi-3 with one is the same model only up to the window. The window's width is kept in
`config.json` under a key of our own, so that converting back restores it: under Phi-3's key, transformers' cache would
obey it though Llama's attention does not. Llama's layout can't express longrope, nor any of Phi-3-small's own layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.writing import TensorToWrite, write_safetensors
from builders.tokenizer import tokenizer_folder, tokenizer_of
from registry.files.staging import staged_folder
from targets.architecture import Architecture, Family
from targets.config_json import read_setting
from targets.errors import CheckpointError, UnsupportedModelError
from targets.layouts import sources_of
from targets.progress import Progress, Step, silent

LAYOUTS: tuple[Family, ...] = ("llama", "phi3")
_NAMES: dict[Family, tuple[str, str]] = {"llama": ("LlamaForCausalLM", "llama"), "phi3": ("Phi3ForCausalLM", "phi3")}
# Keys that both families spell alike; a key that is absent stays absent.
_SHARED_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "attention_dropout",
    "initializer_range",
    "tie_word_embeddings",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_KEPT_WINDOW = "phipack_sliding_window"  # Phi-3's window in Llama's config


def relayout(
    checkpoint: Checkpoint, layout: Family, out: Path, *, replace_existing: bool = False, on_progress: Progress = silent
) -> tuple[str, ...]:
    """Write a checkpoint in a layout at `out`, streamed. Returns notes on where it will answer differently.

    Raises:
        CheckpointError: its config holds NaN, which JSON does not have; or it was changed meanwhile.
        UnsupportedModelError: the layout can't express the model (longrope, partly rotated heads, Phi-3-small).
        BuildError: `out` exists or can't be written. Nothing is left behind.
    """
    there = _architecture_in(checkpoint, layout)
    with staged_folder(out, replace=replace_existing) as folder:
        (folder / "config.json").write_text(_config_json(checkpoint, layout), "utf-8")
        for name, content in _companions(checkpoint).items():
            (folder / name).write_bytes(content)
        tensors = list(_tensors(checkpoint, there))
        write_safetensors(
            folder / "model.safetensors",
            tensors,
            lambda done, total: on_progress(Step("write", done, total, "bytes", layout)),
        )
        open_checkpoint(folder)  # checked against its own config before it gets its name
        checkpoint.require_unchanged()
    return _notes(checkpoint.architecture, layout)


def _architecture_in(checkpoint: Checkpoint, layout: Family) -> Architecture:
    architecture = checkpoint.architecture
    if architecture.family == layout and checkpoint.merged_from is not None:
        return architecture  # the merged checkpoint itself
    if architecture.family == "phi3small":
        raise UnsupportedModelError(
            f"Phi-3-small can't be written in the {layout} layout, which has no biases, GEGLU or block-sparse layers",
            fix="build it as it is: phipack build --recipe onnx-int4, or coreml-int4",
        )
    if layout == "llama" and architecture.longrope is not None:
        raise UnsupportedModelError(
            "Llama's layout has no longrope, which this checkpoint uses",
            fix="use the 4k variant of the model, or build this one as it is",
        )
    if layout == "llama" and architecture.rotary_dim != architecture.head_dim:
        raise UnsupportedModelError(
            f"Llama's layout rotates whole heads; this checkpoint rotates {architecture.rotary_dim} of "
            f"{architecture.head_dim} elements",
            fix="build this one as it is",
        )
    if architecture.family == layout:
        raise UnsupportedModelError(
            f"the checkpoint already has the {layout} layout",
            fix=f"use it as it is, or convert it with --layout {next(other for other in LAYOUTS if other != layout)}",
        )
    return replace(architecture, name=_NAMES[layout][0], family=layout)


def _config_json(checkpoint: Checkpoint, layout: Family) -> str:
    try:
        return json.dumps(_config(checkpoint, layout), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'}: NaN or Infinity, which JSON does not have",
            fix="write a number there, as the model's authors publish it",
        ) from error


def _config(checkpoint: Checkpoint, layout: Family) -> dict[str, Any]:
    architecture, name = checkpoint.architecture, _NAMES[layout]
    if architecture.family == layout:
        return checkpoint.config
    config: dict[str, Any] = {"architectures": [name[0]], "model_type": name[1]}
    config |= {key: checkpoint.config[key] for key in _SHARED_KEYS if key in checkpoint.config}
    # Absent, these ids have another default in the other family.
    config |= {key: read_setting(checkpoint.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    dtype = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    if dtype is not None:
        config["torch_dtype"] = dtype  # every release of transformers reads this name, only later ones "dtype"
    # Written out, since the families' readers have different defaults for these. The rope as every release reads it.
    config |= {
        "num_key_value_heads": architecture.kv_head_count,
        "rms_norm_eps": architecture.norm_epsilon,
        "rope_theta": architecture.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": architecture.tied_embeddings,
    }
    if layout == "phi3":
        config["original_max_position_embeddings"] = architecture.context_length
        config["sliding_window"] = checkpoint.config.get(_KEPT_WINDOW)
    elif architecture.sliding_window is not None:
        config[_KEPT_WINDOW] = architecture.sliding_window
    return config


def _companions(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the tokenizer's files and generation_config.json, by name.

    The same files mean another tokenizer under another model type: transformers rebuilds Llama's from its class, and
    leaves Phi-3's as it is. So these are the files of a bundle, whose class is obeyed under each.
    """
    generation = checkpoint.path / "generation_config.json"
    files = tokenizer_folder(checkpoint, tokenizer_of(checkpoint))
    return files | ({generation.name: generation.read_bytes()} if generation.is_file() else {})


def _tensors(checkpoint: Checkpoint, there: Architecture) -> Iterable[TensorToWrite]:
    """Yield the new layout's tensors. Each is a range of rows of a canonical tensor, in order."""
    for name, shape in there.tensor_shapes().items():
        start = 0
        for part, part_shape in sources_of(there, name, shape).parts:
            dtype = _common_dtype(checkpoint, name, shape)
            rows = range(start, start + part_shape[0])

            pieces = partial(_rows, checkpoint, name, rows)
            yield TensorToWrite(part, dtype, part_shape, pieces)
            start += part_shape[0]


def _common_dtype(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> str:
    """Return the stored dtype of a canonical tensor. Raises `UnsupportedModelError` where its parts have several."""
    parts = sources_of(checkpoint.architecture, name, shape).parts
    dtypes = {checkpoint.stored_dtype(part) for part, _ in parts}
    if len(dtypes) > 1:
        raise UnsupportedModelError(
            f"tensors {', '.join(part for part, _ in parts)} become one, but are stored as {', '.join(sorted(dtypes))}",
            fix="save the checkpoint in one dtype, such as bfloat16",
        )
    return dtypes.pop()


def _rows(checkpoint: Checkpoint, name: str, rows: range) -> Iterable[NDArray[Any]]:
    """Yield rows of a canonical tensor in the stored dtype, piece by piece."""
    shape = checkpoint.architecture.tensor_shapes()[name]
    start = 0
    for part, part_shape in sources_of(checkpoint.architecture, name, shape).parts:
        first, last = max(rows.start, start), min(rows.stop, start + part_shape[0])
        if first < last:
            yield from checkpoint.stored_rows(part, first - start, last - start)
        start += part_shape[0]


def _notes(architecture: Architecture, layout: Family) -> tuple[str, ...]:
    if layout == "llama" and architecture.family != "llama" and architecture.effective_window is not None:
        window = architecture.effective_window
        return (f"Llama has no sliding window: the same model up to {window} tokens, a different one beyond",)
    return ()
