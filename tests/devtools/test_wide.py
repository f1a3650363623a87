"""The wide model is laid out with tiles of a small one."""

from __future__ import annotations

import numpy as np

from devtools.wide import Tiles


def test_a_wide_matrix_has_a_layer_for_each_tile_and_parts_of_their_own() -> None:
    small = {f"model.layers.{layer}.both.weight": np.full((6, 4), layer, np.float16) for layer in range(3)}
    small["model.layers.0.both.weight"][4:] = 9
    wide = Tiles(small, 3, width=8).matrix("both", [4, 2], [8, 3]) / np.float32(0.5**0.5)
    assert wide.shape == (11, 8)
    np.testing.assert_allclose(wide[[0, 4], :][:, [0, 4]], [[0, 1], [2, 0]])
    np.testing.assert_allclose(wide[[8, 10], :][:, [0, 4]], [[1, 2], [9, 1]], rtol=1e-6)


def test_the_tiles_of_an_embedding_have_other_rows() -> None:
    small = {"model.embed_tokens.weight": np.arange(28, dtype=np.float16).reshape(14, 2)}
    wide = Tiles(small, 1, width=4).embedding()
    np.testing.assert_array_equal(wide[:, :2], small["model.embed_tokens.weight"])
    np.testing.assert_array_equal(wide[2:, 2:], wide[:-2, :2])
