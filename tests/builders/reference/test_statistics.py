"""Activation statistics against hooks in transformers' own model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from builders.reference.statistics import multiplied
from targets.progress import Event, Step
from tests.support.bfloat16 import with_bfloat16_products
from tests.support.checkpoints import write_tiny


@pytest.mark.parametrize("tied", [False, True])
def test_they_are_what_transformers_matrices_see(tmp_path: Path, tied: bool) -> None:
    import torch
    import transformers

    folder = write_tiny(tmp_path / "c", tied=tied)
    windows = np.random.default_rng(2).integers(0, 300, (3, 20))
    model = transformers.Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):

            def note(_module: object, inputs: tuple[torch.Tensor], name: str = name) -> None:
                expected[name] = inputs[0].double().square().mean((0, 1))

            module.register_forward_pre_hook(note)
    with_bfloat16_products(model)
    with torch.no_grad():
        model(torch.from_numpy(windows))
    found = FloatReference(open_checkpoint(folder)).statistics(windows)
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    names = {"lm_head": head}
    assert len(found) == len(expected)
    for name, means in expected.items():
        squares = found[names.get(name, f"{name}.weight")]
        assert squares.dtype == np.float32
        np.testing.assert_allclose(squares, means.numpy(), rtol=1e-4)


@pytest.mark.parametrize("family", ["phi3", "llama", "phi3small"])
def test_every_matrix_has_them_and_they_are_kept(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", family=family, tied=True))
    windows = np.arange(24).reshape(2, 12)
    events: list[Event] = []
    reference = FloatReference(checkpoint, tmp_path / "cache", events.append)
    first = reference.statistics(windows)
    assert list(first) == multiplied(checkpoint.architecture)
    again = reference.statistics(windows)
    assert events.count(Step("reference", 0, checkpoint.architecture.layer_count, "layers")) == 1
    for name, squares in first.items():
        assert squares.shape == (checkpoint.architecture.tensor_shapes()[name][1],)
        np.testing.assert_array_equal(again[name], squares)
