"""A folded checkpoint computes what the checkpoint does, in every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.quantization.fold import FoldedSource, fold_factors
from builders.reference.forward import hidden_states
from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.layouts import sources_of, stored_shapes
from tests.support.checkpoints import VOCABULARY_SIZE, Tiny, write_tiny

SHAPES = {
    "phi3": Tiny(),
    "llama": Tiny(family="llama"),
    "phi3small, with biases": Tiny(family="phi3small", hidden=128, heads=4),
}


def made_up(columns: int, seed: int) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, 3, columns)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_model_computes_the_same(tmp_path: Path, shape: Tiny) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", shape))
    architecture, source = checkpoint.architecture, checkpoint.open_tensors()
    squares = {
        name: made_up(shape[1], seed)
        for seed, (name, shape) in enumerate(architecture.tensor_shapes().items())
        if len(shape) == 2
    }
    squares["model.layers.1.mlp.down_proj.weight"][5] = 1e9
    squares["model.layers.0.mlp.down_proj.weight"] = np.ones(architecture.intermediate_size, np.float32)
    factors = fold_factors(architecture, squares)
    giant = "model.layers.1.mlp.down_proj.weight"
    assert sorted(factors) == sorted(
        name
        for name in squares
        if name.endswith(("qkv_proj.weight", "gate_up_proj.weight")) or (name == giant and not architecture.biased)
    )
    folded = FoldedSource(source, architecture, factors)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY_SIZE, (2, 20))
    same = hidden_states(architecture, folded, tokens)
    np.testing.assert_allclose(same, hidden_states(architecture, source, tokens), atol=2e-5)
    name = "model.layers.1.mlp.gate_up_proj.weight"
    folded_columns = source.tensor(name) * factors[name]
    np.testing.assert_array_equal(
        folded.tensor(name)[: architecture.intermediate_size], folded_columns[: architecture.intermediate_size]
    )
    assert np.abs(factors[name]).max() > 1.5


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_stored_tensors_are_folded_like_the_whole_ones(tmp_path: Path, shape: Tiny) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", shape))
    architecture, source = checkpoint.architecture, checkpoint.open_tensors()
    matrix = "model.layers.0.self_attn.qkv_proj.weight"
    factors = {matrix: made_up(architecture.hidden_size, 3)}
    folded = FoldedSource(source, architecture, factors)
    changed = {
        name
        for name in stored_shapes(architecture)
        if not np.array_equal(folded.stored_tensor(name), source.stored_tensor(name))
    }
    parts = {
        "phi3": {"self_attn.qkv_proj.weight"},
        "llama": {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"},
        "phi3small": {"self_attn.query_key_value.weight"},
    }[architecture.family]
    norms = {"input_layernorm.weight", "input_layernorm.bias"} if architecture.biased else {"input_layernorm.weight"}
    assert changed - {"model.layers.0.input_layernorm.bias"} == {
        f"model.layers.0.{part}" for part in (parts | norms) - {"input_layernorm.bias"}
    }
    for part in parts:
        name = f"model.layers.0.{part}"
        np.testing.assert_array_equal(folded.stored_tensor(name), source.stored_tensor(name) * factors[matrix])


def test_factors_have_a_geometric_mean_of_one_and_grow_with_the_input() -> None:
    checkpoint_shape = Tiny()
    architecture = _architecture(checkpoint_shape)
    matrix = "model.layers.0.mlp.gate_up_proj.weight"
    squares = np.linspace(0.01, 100, architecture.hidden_size).astype(np.float32)
    factors = fold_factors(architecture, {matrix: squares})
    assert np.log(factors[matrix]).mean() == pytest.approx(0, abs=1e-6)
    assert (np.diff(factors[matrix]) > 0).all()


@pytest.mark.parametrize("bad", [np.zeros(64), np.full(64, np.nan), np.full(64, np.inf)], ids=["dead", "nan", "inf"])
def test_what_was_not_measured_is_not_folded(bad: np.ndarray) -> None:
    matrix = "model.layers.0.mlp.gate_up_proj.weight"
    assert fold_factors(_architecture(Tiny()), {matrix: bad.astype(np.float32)}) == {}


def test_a_column_without_input_gets_a_bounded_factor() -> None:
    matrix = "model.layers.0.mlp.gate_up_proj.weight"
    squares = np.ones(64, np.float32)
    squares[3] = 0
    factors = fold_factors(_architecture(Tiny()), {matrix: squares})[matrix]
    assert 0.1 < factors[3] < 1


def _architecture(shape: Tiny) -> Architecture:
    return read_architecture(shape.config())


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_stored_parts_of_a_matrix_before_a_folded_one_make_up_the_whole(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", Tiny(family=family)))
    architecture, source = checkpoint.architecture, checkpoint.open_tensors()
    gate_up, down = (f"model.layers.1.mlp.{stem}.weight" for stem in ("gate_up_proj", "down_proj"))
    factors = {gate_up: made_up(64, 1), down: made_up(128, 2)}
    folded = FoldedSource(source, architecture, factors)
    parts = sources_of(architecture, gate_up, architecture.tensor_shapes()[gate_up]).parts
    stored = np.concatenate([folded.stored_tensor(name) for name, _ in parts])
    np.testing.assert_array_equal(stored, folded.tensor(gate_up))
    up = source.tensor(gate_up)[128:] * factors[gate_up] / factors[down][:, None]
    np.testing.assert_allclose(stored[128:], up, rtol=1e-6)
    np.testing.assert_array_equal(folded.stored_tensor(down), source.tensor(down) * factors[down])
