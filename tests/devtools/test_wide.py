"""The wide model is laid out with tiles of a small one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.checkpoint import open_checkpoint
from devtools import wide
from devtools.wide import Tiles
from tests.support.checkpoints import Tiny, write_tiny


def test_a_wide_matrix_has_a_layer_for_each_tile_and_parts_of_their_own() -> None:
    small = {f"model.layers.{layer}.both.weight": np.full((6, 4), layer, np.float16) for layer in range(3)}
    small["model.layers.0.both.weight"][4:] = 9
    wide = Tiles(small, 3, width=8).matrix("both", [4, 2], [8, 3]) / np.float32(0.5**0.5)
    assert wide.shape == (11, 8)
    np.testing.assert_allclose(wide[[0, 4], :][:, [0, 4]], [[0, 1], [2, 0]])
    np.testing.assert_allclose(wide[[8, 10], :][:, [0, 4]], [[1, 2], [9, 1]], rtol=1e-6)


def test_the_tiles_of_an_embedding_have_other_rows_and_no_mean() -> None:
    small = {"model.embed_tokens.weight": np.arange(28, dtype=np.float16).reshape(14, 2)}
    wide = Tiles(small, 1, width=4).embedding()
    np.testing.assert_array_equal(wide[:, :2], small["model.embed_tokens.weight"] - np.array([13, 14]))
    np.testing.assert_array_equal(wide[2:, 2:], wide[:-2, :2])


def test_the_wide_checkpoint_opens_and_its_branches_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write_tiny(tmp_path / "one", Tiny(heads=2, kv_heads=2, tied=True, dtype="F16"))
    widths = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 4}
    monkeypatch.setitem(wide.CONFIGS, "mini", widths)
    wide.write_wide(one, tmp_path / "wide")
    architecture = open_checkpoint(tmp_path / "wide").architecture
    assert (architecture.layer_count, architecture.hidden_size, architecture.intermediate_size) == (2, 128, 192)
    small, made = (load_file(folder / "model.safetensors") for folder in (one, tmp_path / "wide"))
    for kind, factor in (("o_proj", 0.2), ("qkv_proj", 1.0)):
        expected = small[f"model.layers.0.self_attn.{kind}.weight"].std() * 0.5**0.5 * factor
        found = made[f"model.layers.0.self_attn.{kind}.weight"].std(dtype=np.float64)
        assert found == pytest.approx(expected, rel=0.1), kind
    rows = made["model.embed_tokens.weight"].astype(np.float64)
    assert np.abs(rows.mean(axis=0)).max() < 0.01 * rows.std()
