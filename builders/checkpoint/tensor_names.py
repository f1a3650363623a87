"""Names of tensors that don't match the model: what the file is instead, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from targets.architecture import Architecture
from targets.errors import CheckpointError
from targets.layouts import stored_shapes

OTHER_MODEL = "compare config.json with the weights: they may belong to different models"
_MERGE = "load it with peft, call merge_and_unload(), and save the result with save_pretrained"
# Prefixes that wrappers put before every name, with what the wrapper is and how the model inside is saved.
_PREFIXES = (
    ("base_model.model.", "while peft wrapped it, perhaps with an adapter that is not merged", _MERGE),
    ("_orig_mod.", "while torch.compile wrapped it", "save the model inside: model._orig_mod.save_pretrained(...)"),
    ("module.", "while DataParallel wrapped it", "save the model inside: model.module.save_pretrained(...)"),
    (
        "_fsdp_wrapped_module.",
        "while FSDP wrapped it",
        "save a full state dict: trainer.accelerator.get_state_dict(model), then save_pretrained",
    ),
    (
        "language_model.",
        "as a part of a model of images and text",
        "save that part alone: model.language_model.save_pretrained(...)",
    ),
)
# Parts of names that belong to something else than a plain decoder.
_PARTS = (
    (".lora_", "an adapter (LoRA) that is not merged", _MERGE),
    (".base_layer.", "an adapter (LoRA) that is not merged", _MERGE),
    ("vision_embed_tokens", "a model of images", "use the checkpoint of a language model, such as Phi-3.5-mini"),
    ("vision_", "a model of images", "use the checkpoint of a language model, such as Phi-3.5-mini"),
    ("block_sparse_moe", "a mixture of experts", "use the checkpoint of a model without experts"),
    (".experts.", "a mixture of experts", "use the checkpoint of a model without experts"),
    ("score.", "a classifier's head", "use the checkpoint of the language model"),
    ("_scale", "quantized weights", "use the checkpoint as released, not one that is already quantized"),
    ("qweight", "quantized weights", "use the checkpoint as released, not one that is already quantized"),
    ("absmax", "quantized weights", "use the checkpoint as released, not one that is already quantized"),
)
_FUSED, _SEPARATE = (".qkv_proj.", ".gate_up_proj."), (".q_proj.", ".gate_proj.")


def refuse_names(folder: Path, found: Iterable[str], architecture: Architecture) -> None:
    """Check that the names are those of the architecture.

    Raises:
        CheckpointError: one is missing or too many. The error says what the weights are, where that is known.
    """
    names, expected = set(found), stored_shapes(architecture)
    missing = [name for name in expected if name not in names]
    extra = [name for name in found if name not in expected]
    if not missing and not extra:
        return
    _refuse_wrapped(folder, extra)
    _refuse_layout(folder, extra, architecture)
    for part, what, fix in _PARTS:
        if example := next((name for name in extra if part in name), None):
            raise CheckpointError(f"{folder}: tensor {example!r} is not part of {architecture.name}: {what}", fix=fix)
    _refuse_head(folder, missing, extra)
    if missing:
        raise CheckpointError(
            f"{folder}: tensor {missing[0]!r} is missing ({len(missing)} of {len(expected)} in all)", fix=OTHER_MODEL
        )
    raise CheckpointError(
        f"{folder}: tensor {extra[0]!r} is not part of {architecture.name} ({len(extra)} such)", fix=OTHER_MODEL
    )


def _refuse_wrapped(folder: Path, extra: list[str]) -> None:
    for prefix, what, fix in _PREFIXES:
        inside = f".{prefix}"
        if example := next((name for name in extra if name.startswith(prefix) or inside in name), None):
            raise CheckpointError(f"{folder}: tensor {example!r}: the model was saved {what}", fix=fix)


def _refuse_layout(folder: Path, extra: list[str], architecture: Architecture) -> None:
    others: Mapping[str, tuple[tuple[str, ...], str]] = {
        "phi3": (_SEPARATE, "LlamaForCausalLM"),
        "llama": (_FUSED, "Phi3ForCausalLM"),
    }
    if architecture.family not in others:
        return
    parts, other = others[architecture.family]
    if example := next((name for name in extra if any(part in name for part in parts)), None):
        raise CheckpointError(
            f"{folder}: tensor {example!r} is {other}'s, but config.json says {architecture.name}",
            fix=f"use the config.json that was saved with these weights; if it is lost, {other}'s keys must be set",
        )


def _refuse_head(folder: Path, missing: list[str], extra: list[str]) -> None:
    if missing == ["lm_head.weight"] and not extra:
        raise CheckpointError(
            f"{folder}: tensor 'lm_head.weight' is missing, so that the model has no head",
            fix='set "tie_word_embeddings": true if the head is the embedding; otherwise save the model again from its '
            "class for causal language models",
        )
    if "model.embed_tokens.weight" in missing and "embed_tokens.weight" in extra:
        raise CheckpointError(
            f"{folder}: tensor 'embed_tokens.weight' belongs to a decoder that was saved without its head",
            fix="save the whole model: AutoModelForCausalLM, then save_pretrained",
        )
