"""A base and an adapter read as one checkpoint: bit for bit what peft's `merge_and_unload` makes of the two."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.adapter import merge
from builders.checkpoint.adapter.changes import blocks
from builders.checkpoint.rows import in_canonical_order
from targets.layouts import sources_of, stored_shapes
from tests.support.adapters import FUSED, SEPARATE, SMALL, load_model, peft_merges, write_adapter
from tests.support.checkpoints import write_tiny

WEIGHTS = "model.safetensors"
NAMED = {"^model.layers.0.self_attn.qkv_proj": 2, "layers.1.mlp.down_proj": 8}
PHI3: dict[str, dict[str, Any]] = {
    "every matrix": {},
    "rslora": {"use_rslora": True, "r": 5},
    "all-linear": {"target_modules": "all-linear"},
    "an expression": {"target_modules": r".*\.1\.(self_attn\.o_proj|mlp\..*_proj)"},
    "excluded": {"exclude_modules": ["model.layers.0.mlp.down_proj", "o_proj"]},
    "one layer": {"layers_to_transform": 1},
    "layers of a pattern": {"layers_to_transform": [0], "layers_pattern": "layers"},
    "full names go past layers_to_transform": {
        "target_modules": ["qkv_proj", "model.layers.1.mlp.down_proj"],
        "layers_to_transform": [0],
    },
    "ranks and alphas of their own": {"rank_pattern": NAMED, "alpha_pattern": {"o_proj": 1, "mlp.down_proj": 32}},
    "ranks and alphas with rslora": {"rank_pattern": NAMED, "alpha_pattern": {"o_proj": 1}, "use_rslora": True},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "bias": {"bias": "all"},
    "dora": {"use_dora": True},
    "mica": {"init_lora_weights": "mica"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "embedding": {"target_modules": ["qkv_proj", "embed_tokens"]},
    "head": {"target_modules": ["qkv_proj", "lm_head"]},
    "head with dora": {"target_modules": ["lm_head"], "use_dora": True},
    "embedding and head saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "norms saved": {"modules_to_save": ["norm"]},
    "an mlp saved": {"modules_to_save": ["mlp"], "target_modules": ["qkv_proj", "down_proj"]},
    "tokens": {"trainable_token_indices": [3, 310]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [7]}},
    "embeddings saved": {"save_embedding_layers": True},
}
OF_ROWS = ("embedding", "embedding and head saved", "tokens")
TIED: dict[str, dict[str, Any]] = {
    "every matrix": {},
    "all-linear": {"target_modules": "all-linear"},
    "embedding and head saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "embedding saved, kept tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "both saved, kept tied": {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [3, 5]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}},
}
RESIZED: dict[str, dict[str, Any]] = {
    "saved by peft": {"save_embedding_layers": True},
    "in modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"], "save_embedding_layers": False},
    "in both": {"modules_to_save": ["embed_tokens", "lm_head"], "save_embedding_layers": True},
    "single tokens": {"trainable_token_indices": [325, 326], "save_embedding_layers": True},
    "product on the embedding": {"target_modules": ["qkv_proj", "embed_tokens", "lm_head"]},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    kinds: dict[str, dict[str, Any]] = {
        "phi3": {},
        "tied": {"tied": True},
        "llama": {"family": "llama"},
        "phi3small": {"family": "phi3small", "tied": True},
        "F16": {"dtype": "F16"},
        "F32": {"dtype": "F32"},
        "longrope": {"original_context": 64, "window": 32},
    }
    return {name: write_tiny(folder / name, **changes) for name, changes in kinds.items()}


def held_to_peft(base: Path, folder: Path, **changes: Any) -> Checkpoint:
    """Write an adapter and compare every tensor, by both names, and rows of the embedding, with peft's merge."""
    size = changes.get("vocabulary_size")
    adapter = write_adapter(base, folder / "adapter", **changes)
    merged = merge(open_checkpoint(base), adapter)
    model = peft_merges(base, adapter, size)
    expected = {name: values.float().numpy() for name, values in model.state_dict().items()}
    architecture, source = merged.architecture, merged.open_tensors()
    assert stored_shapes(architecture) == {
        name: values.shape
        for name, values in expected.items()
        if name != "lm_head.weight" or not architecture.tied_embeddings
    }
    for name in stored_shapes(architecture):
        np.testing.assert_array_equal(source.stored_tensor(name), expected[name], err_msg=name)
    for name, shape in architecture.tensor_shapes().items():
        np.testing.assert_array_equal(source.tensor(name), canonical(merged, name, shape, expected), err_msg=name)
    if hasattr(model, "config"):
        assert model.config.tie_word_embeddings == architecture.tied_embeddings
        assert model.config.vocab_size == architecture.vocabulary_size
    if architecture.tied_embeddings and "lm_head.weight" in expected:
        np.testing.assert_array_equal(expected["lm_head.weight"], expected["model.embed_tokens.weight"])
    ids = np.array([[3, 310, 5], [3, 0, architecture.vocabulary_size - 1]])
    embedding = expected["model.embed_tokens.weight"]
    np.testing.assert_array_equal(source.rows("model.embed_tokens.weight", ids), embedding[ids])
    return merged


def canonical(merged: Checkpoint, name: str, shape: tuple[int, ...], expected: dict[str, np.ndarray]) -> np.ndarray:
    sources = sources_of(merged.architecture, name, shape)
    stored = np.concatenate([expected[part] for part, _ in sources.parts])
    values = np.empty(shape, np.float32)
    for place, taken in in_canonical_order(values, stored, sources.order, merged.architecture):
        place[...] = taken
    return values


@pytest.mark.parametrize("case", PHI3)
def test_phi_3_is_what_peft_merges(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    merged = held_to_peft(bases["phi3"], tmp_path, **PHI3[case])
    assert merged.architecture == open_checkpoint(bases["phi3"]).architecture


@pytest.mark.parametrize("case", TIED)
def test_a_tied_base_is_what_peft_merges(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    merged = held_to_peft(bases["tied"], tmp_path, **TIED[case])
    assert merged.architecture.tied_embeddings is ("saved" not in case or "kept tied" in case)
    assert merged.config.get("tie_word_embeddings") is merged.architecture.tied_embeddings


@pytest.mark.parametrize("kind", ["phi3", "tied"])
@pytest.mark.parametrize("case", RESIZED)
def test_a_resized_vocabulary_is_what_peft_merges(bases: dict[str, Path], tmp_path: Path, case: str, kind: str) -> None:
    if kind == "tied" and case == "product on the embedding":
        return  # refused: see test_adapter_refused.py
    merged = held_to_peft(bases[kind], tmp_path, vocabulary_size=330, **RESIZED[case])
    assert merged.architecture.vocabulary_size == merged.config["vocab_size"] == 330


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"use_rslora": True, "rank_pattern": {"q_proj": 2}}])
def test_llamas_separate_matrices_are_what_peft_merges(
    bases: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    held_to_peft(bases["llama"], tmp_path, target_modules=SEPARATE, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_dora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"trainable_token_indices": {"embed_tokens": [3]}},
    ],
)
def test_phi_3_small_is_what_peft_merges(bases: dict[str, Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    held_to_peft(bases["phi3small"], tmp_path, **{"target_modules": SMALL, "task_type": None} | changes)


@pytest.mark.parametrize("kind", ["F16", "F32", "longrope"])
@pytest.mark.parametrize(
    "case",
    ["every matrix", "dora", *(pytest.param(case, marks=pytest.mark.every_case) for case in OF_ROWS)],
)
def test_every_dtype_is_rounded_as_peft_does(bases: dict[str, Path], tmp_path: Path, kind: str, case: str) -> None:
    held_to_peft(bases[kind], tmp_path, **PHI3[case])


def test_the_adapter_changes_the_weights_that_it_names_and_no_other(bases: dict[str, Path], tmp_path: Path) -> None:
    base = open_checkpoint(bases["phi3"])
    merged = merge(base, write_adapter(bases["phi3"], tmp_path / "adapter", target_modules=["o_proj"]))
    ours, theirs = merged.open_tensors(), base.open_tensors()
    changed = [n for n in base.stored_tensors if not np.array_equal(ours.stored_tensor(n), theirs.stored_tensor(n))]
    assert changed == [name for name in base.stored_tensors if name.endswith("self_attn.o_proj.weight")]


def test_rows_of_many_blocks_are_those_of_the_whole(tmp_path: Path) -> None:
    """A vocabulary of 2,500: two blocks of products, the second one longer."""
    base = write_tiny(tmp_path / "base")
    adapter = write_adapter(
        base, tmp_path / "adapter", vocabulary_size=2500, target_modules=["embed_tokens", "lm_head"], r=16
    )
    assert list(blocks(2500)) == [(0, 1024), (1024, 2500)]
    source = merge(open_checkpoint(base), adapter).open_tensors()
    expected = peft_merges(base, adapter, 2500).state_dict()
    ids = np.random.default_rng(0).integers(0, 2500, (3, 50))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        whole = source.stored_tensor(name)
        np.testing.assert_array_equal(source.rows(name, ids), whole[ids])
        np.testing.assert_array_equal(whole, expected[name].float().numpy())


def test_peft_merges_the_first_layers_alone(tmp_path: Path) -> None:
    """What the oracle relies on: the adapter's tensors of layers that were cut are left out."""
    base = write_tiny(tmp_path / "base", layers=6)
    adapter = write_adapter(base, tmp_path / "adapter", target_modules="all-linear", modules_to_save=["lm_head"])
    cut = write_tiny(tmp_path / "cut", layers=2)
    save_file({n: t for n, t in load_file(base / WEIGHTS).items() if not re.search(r"layers\.[2-5]", n)}, cut / WEIGHTS)
    expected = peft_merges(cut, adapter).state_dict()
    source = merge(open_checkpoint(base), adapter).open_tensors()
    for name, values in expected.items():
        np.testing.assert_array_equal(source.stored_tensor(name), values.float().numpy(), err_msg=name)


def test_the_model_answers_as_pefts(bases: dict[str, Path], tmp_path: Path) -> None:
    import torch

    from builders.reference.logits import FloatReference

    adapter = write_adapter(bases["F32"], tmp_path / "adapter", target_modules=[*FUSED, "lm_head"])
    reference = FloatReference(merge(open_checkpoint(bases["F32"]), adapter))
    tokens = np.random.default_rng(1).integers(0, 300, (1, 40))
    with torch.no_grad():
        theirs = peft_merges(bases["F32"], adapter)(torch.from_numpy(tokens)).logits[0].numpy()
        plain = load_model(bases["F32"])(torch.from_numpy(tokens)).logits[0].numpy()
    np.testing.assert_allclose(reference.logits(reference.hidden(tokens)[0]), theirs, atol=1e-4)
    assert np.abs(plain - theirs).max() > 0.1
