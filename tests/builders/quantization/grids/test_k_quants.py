"""K-quants: ggml's own bytes, whatever the weights and the importance of their columns."""

from __future__ import annotations

import platform
from dataclasses import replace

import numpy as np
import pytest

from builders.quantization.ggml_library import encode_rows
from builders.quantization.grids import iq4_quants, k_quants
from builders.quantization.grids.k_quants import encode_matrix, encode_some
from targets.errors import CheckpointError
from targets.storage.gguf import TYPES

KINDS = ("Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def weights(seed: int = 1, rows: int = 70) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    normal = random.standard_normal((rows, 512))
    some = {
        "heavy tails": random.standard_t(3, (rows, 512)),
        "tiny": normal * 1e-30,
        "next to denormal": normal * 1e-37,
        "denormal": normal * 1e-40,
        "large": normal * 1e5,
        "zeros": normal * 0,
        "negative": -np.abs(normal),
        "positive": np.abs(normal),
        "constant": np.repeat(normal[:, :1], 512, axis=1),
        "on a grid": random.integers(-8, 8, (rows, 512)) / 4,
        "sparse": normal * (random.random((rows, 512)) < 0.02),
        "of all magnitudes": normal * np.exp(random.normal(0, 6, (rows, 512)).clip(-20, 9)),
    }
    return {name: values.astype(np.float32) for name, values in some.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_ggmls(kind: str) -> None:
    for name, values in weights().items():
        theirs = encode_rows(values, TYPES[kind], name="it")
        np.testing.assert_array_equal(k_quants._encoded(values, TYPES[kind], "it"), theirs, err_msg=name)
        np.testing.assert_array_equal(encode_matrix(values, TYPES[kind], name="it"), theirs.reshape(-1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0, 1, 4])
def test_the_bytes_are_ggmls_with_an_importance(kind: str, spread: float) -> None:
    importance = np.random.default_rng(spread).lognormal(0, spread, 512).astype(np.float32)
    for name, values in weights(spread).items():
        theirs = encode_rows(values, TYPES[kind], name="it", importance=importance)
        ours = encode_matrix(values, TYPES[kind], name="it", importance=importance)
        np.testing.assert_array_equal(ours, theirs.reshape(-1), err_msg=name)
        one_block = encode_some(values[:, :256], TYPES[kind], name="it", importance=importance[:256])
        np.testing.assert_array_equal(one_block, theirs[:, : theirs.shape[1] // 2], err_msg=name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Q3_K"])
def test_the_search_decides_on_trained_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is used, ggml's slower one is asked for no row."""
    values = weights()["heavy tails"]
    assert k_quants._has_ggmls_bytes(kind, calibrated=True) or platform.machine() != "x86_64"
    theirs = encode_rows(values, TYPES[kind], name="it", importance=np.ones(512, np.float32))
    monkeypatch.setattr(k_quants, "encode_rows", None)
    ours = k_quants._encoded(values, TYPES[kind], "it", np.ones(512, np.float32))
    if platform.machine() == "x86_64":
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_used_where_it_agrees_with_ggml_and_only_there(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    k_quants._has_ggmls_bytes.cache_clear()
    agreed = k_quants._has_ggmls_bytes(kind, calibrated=False)
    values = weights()["heavy tails"]
    theirs = encode_rows(values, TYPES[kind], name="it")
    if kind in k_quants._PLAIN:  # as of another ggml
        monkeypatch.setitem(k_quants._PLAIN, kind, k_quants._widths(-1.0, 0.1, 2))
    elif kind in iq4_quants.TYPES:
        monkeypatch.setattr(iq4_quants, "TRIALS", 1)
    else:
        monkeypatch.setitem(k_quants.SEARCHES, kind, replace(k_quants.SEARCHES[kind], effort=1))
    if agreed:
        assert (encode_matrix(values, TYPES[kind], name="it") != theirs.reshape(-1)).any()
    k_quants._has_ggmls_bytes.cache_clear()
    np.testing.assert_array_equal(encode_matrix(values, TYPES[kind], name="it"), theirs.reshape(-1))
    k_quants._has_ggmls_bytes.cache_clear()


def test_a_weight_that_no_block_can_hold_names_the_tensor() -> None:
    with pytest.raises(CheckpointError, match="tensor 'down' holds a value of magnitude 1e"):
        encode_matrix(np.full((1, 256), 1e6, np.float32), TYPES["Q4_K"], name="down")
