"""Every tensor is part of the model, harmless as it is to transformers, or refused with what it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from targets.errors import CheckpointError, UnsupportedModelError
from tests.support.checkpoints import Tiny, random_weights, write_json, write_tiny, write_weights
from tests.support.transformers_models import auto_model, transformers_logits

Weights = dict[str, np.ndarray]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOKENS = np.random.default_rng(3).integers(0, 300, 40)
TABLE = "model.layers.{}.self_attn.rotary_emb.inv_freq"


def write_with(folder: Path, change: Callable[[Weights], Weights], **shape: Any) -> Path:
    """Write a tiny checkpoint in float32 with changed tensors."""
    write_tiny(folder, dtype="F32", **shape)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


def tables(theta: float, elements: int = 8, dtype: type = np.float32) -> Weights:
    table = (theta ** (-np.arange(elements) / elements)).astype(dtype)
    return {TABLE.format(layer): table for layer in range(2)}


def our_logits(folder: Path) -> np.ndarray:
    reference = FloatReference(open_checkpoint(folder))
    return reference.logits(reference.hidden(TOKENS[None])[0])


@pytest.mark.parametrize("family", ["phi3", "llama"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_table_of_the_rope_is_skipped_as_in_transformers(tmp_path: Path, family: str, dtype: type) -> None:
    folder = write_with(tmp_path / "c", lambda weights: weights | tables(10000.0, dtype=dtype), family=family)
    opened = open_checkpoint(folder)
    assert opened.notes == ()
    assert not any("inv_freq" in name for name in opened.stored_tensors)
    np.testing.assert_allclose(our_logits(folder), transformers_logits(folder, TOKENS), atol=1e-4)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (tables(1000000.0), r"has frequencies of a base of 1e\+06, but config\.json has a base of 1e\+04"),
        ({TABLE.format(1): np.ones(8, np.float32)}, r"layers\.1\..* but config\.json has a base of 1e\+04"),
        (tables(10000.0, elements=4), r"has shape \[4\]"),
    ],
)
def test_a_table_that_contradicts_the_config_gets_a_note(tmp_path: Path, found: Weights, words: str) -> None:
    folder = write_with(tmp_path / "c", lambda weights: weights | found, family="llama")
    (note,) = open_checkpoint(folder).notes
    assert "config.json holds, as in transformers" in note
    assert re.search(words, note)
    np.testing.assert_allclose(our_logits(folder), transformers_logits(folder, TOKENS), atol=1e-4)


def test_phi_3_smalls_own_class_saves_its_table(tmp_path: Path) -> None:
    plain = open_checkpoint(write_tiny(tmp_path / "plain", family="phi3small", dtype="F32"))
    folder = write_with(tmp_path / "c", lambda weights: weights | tables(1e6), family="phi3small")
    opened = open_checkpoint(folder)
    assert opened.notes == ()
    assert opened.stored_tensors.keys() == plain.stored_tensors.keys()


def test_longropes_table_has_one_of_its_factors(tmp_path: Path) -> None:
    shape = Tiny(original_context=64)
    long = np.asarray(shape.config()["rope_scaling"]["long_factor"])
    table = (10000.0 ** (-np.arange(8) / 8) / long).astype(np.float32)
    folder = write_with(
        tmp_path / "c", lambda weights: weights | {TABLE.format(0): table}, original_context=64, context=512
    )
    assert open_checkpoint(folder).notes == ()


def test_a_tied_head_that_repeats_the_embedding_is_skipped(tmp_path: Path) -> None:
    folder = write_with(tmp_path / "c", lambda weights: weights | {HEAD: weights[EMBEDDING]}, tied=True)
    assert HEAD not in open_checkpoint(folder).stored_tensors
    np.testing.assert_allclose(our_logits(folder), transformers_logits(folder, TOKENS), atol=1e-4)


def nudged(weights: Weights) -> Weights:
    head = weights[EMBEDDING].copy()
    head[-1, -1] += 1
    return weights | {HEAD: head}


@pytest.mark.parametrize(
    "change", [nudged, lambda weights: weights | {HEAD: weights[EMBEDDING].astype(np.float16)}], ids=["value", "dtype"]
)
def test_a_tied_head_with_other_values_is_refused(tmp_path: Path, change: Callable[[Weights], Weights]) -> None:
    folder = write_with(tmp_path / "c", change, tied=True)
    model = auto_model(folder)
    assert not (model.lm_head.weight == model.model.embed_tokens.weight).all()  # transformers 4 ties them all the same
    with pytest.raises(CheckpointError, match=rf"tie_word_embeddings.*{HEAD} is not the same as {EMBEDDING}"):
        open_checkpoint(folder)


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if name not in names}


def renamed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def with_tensor(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: np.ones((4, 4), np.float32)}


def headless(weights: Weights) -> Weights:
    return {name.removeprefix("model."): value for name, value in weights.items() if name != HEAD}


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        (renamed("base_model.model."), "'base_model.model.lm_head.weight': .* peft", "merge_and_unload"),
        (renamed("_orig_mod."), "torch.compile", "model._orig_mod.save_pretrained"),
        (renamed("module."), "DataParallel", "model.module.save_pretrained"),
        (renamed("language_model."), "images and text", "model.language_model"),
        (with_tensor("model.layers.0.self_attn.qkv_proj.lora_A.weight"), "that is not merged", "merge_and_unload"),
        (with_tensor("score.weight"), "a classifier's head", "language model"),
        (with_tensor("model.layers.0.block_sparse_moe.gate.weight"), "a mixture of experts", "without experts"),
        (with_tensor("model.layers.0.mlp.down_proj.weight_scale"), "quantized weights", "as released"),
        (headless, "a decoder that was saved without its head", "AutoModelForCausalLM"),
        (without(HEAD), "'lm_head.weight' is missing", '"tie_word_embeddings": true'),
        (without("model.norm.weight"), r"'model.norm.weight' is missing \(1 of 15", "different models"),
        (with_tensor("model.other.weight"), r"'model.other.weight' is not part of Phi3ForCausalLM", "different models"),
    ],
)
def test_other_names_are_refused_with_what_they_are(
    tmp_path: Path, change: Callable[[Weights], Weights], problem: str, fix: str
) -> None:
    folder = write_with(tmp_path / "c", change)
    with pytest.raises(CheckpointError, match=problem) as refused:
        open_checkpoint(folder)
    assert fix in refused.value.fix


@pytest.mark.parametrize(("weights", "config"), [("llama", "phi3"), ("phi3", "llama")])
def test_weights_of_the_other_layout_are_recognised(tmp_path: Path, weights: str, config: str) -> None:
    folder = write_tiny(tmp_path / "c", family=weights)
    write_json(folder / "config.json", Tiny(family=config).config())
    with pytest.raises(CheckpointError, match=r"ForCausalLM's, but config\.json says"):
        open_checkpoint(folder)


def test_dtypes_may_be_mixed(tmp_path: Path) -> None:
    def mixed(weights: Weights) -> Weights:
        return {
            name: value if value.ndim == 1 else value.astype(np.float16) for name, value in weights.items()
        }  # norms in float32, as some trainers save them

    folder = write_with(tmp_path / "c", mixed)
    assert {tensor.dtype for tensor in open_checkpoint(folder).stored_tensors.values()} == {"F16", "F32"}
    np.testing.assert_allclose(our_logits(folder), transformers_logits(folder, TOKENS), atol=1e-4)


@pytest.mark.parametrize(("dtype", "fix"), [(np.float64, "save the model in float32"), (np.int8, "already quantized")])
def test_other_dtypes_are_refused_with_what_helps(tmp_path: Path, dtype: type, fix: str) -> None:
    folder = write_with(tmp_path / "c", lambda weights: weights | {"model.norm.weight": np.ones(64, dtype)})
    with pytest.raises(UnsupportedModelError, match=r"'model\.norm\.weight' has dtype") as refused:
        open_checkpoint(folder)
    assert fix in refused.value.fix


def test_a_head_of_its_own_is_read_where_it_is_not_tied(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c", dtype="F32")
    weights = random_weights(Tiny().config())
    write_weights(folder, weights, dtype="F32")
    np.testing.assert_array_equal(open_checkpoint(folder).open_tensors().tensor(HEAD), weights[HEAD])
