"""Compiled searches: ggml's own bytes, whatever the weights and the importance of their columns."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from builders.quantization.ggml_library import encode_rows
from builders.quantization.grids import ggml_search, iq4_quants, k_quants, signed_quants
from builders.quantization.grids.ggml_search import encode_matrix, encode_some
from targets.errors import CheckpointError
from targets.storage.gguf import TYPES

KINDS = ("Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
CALIBRATED = ("Q4_0", "Q5_0")  # searched for where columns have an importance


def weights(seed: int = 1, rows: int = 70) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    normal = random.standard_normal((rows, 512))
    some = {
        "heavy tails": random.standard_t(3, (rows, 512)),
        "tiny": normal * 1e-30,
        "next to denormal": normal * 1e-37,
        "denormal": normal * 1e-40,
        "large": normal * 5e4,  # within what Q4_0 takes
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
        np.testing.assert_array_equal(ggml_search._encoded(values, TYPES[kind], "it"), theirs, err_msg=name)
        np.testing.assert_array_equal(encode_matrix(values, TYPES[kind], name="it"), theirs.reshape(-1))


@pytest.mark.parametrize("kind", KINDS + CALIBRATED)
@pytest.mark.parametrize("spread", [0, 1, 4])
def test_the_bytes_are_ggmls_with_an_importance(kind: str, spread: float) -> None:
    importance = np.random.default_rng(spread).lognormal(0, spread, 512).astype(np.float32)
    for name, values in weights(spread).items():
        theirs = encode_rows(values, TYPES[kind], name="it", importance=importance)
        ours = encode_matrix(values, TYPES[kind], name="it", importance=importance)
        np.testing.assert_array_equal(ours, theirs.reshape(-1), err_msg=name)
        half = encode_some(values[:, :256], TYPES[kind], name="it", importance=importance[:256])
        theirs = encode_rows(values[:, :256], TYPES[kind], name="it", importance=importance[:256])
        np.testing.assert_array_equal(half, theirs, err_msg=name)


@pytest.mark.parametrize("kind", KINDS + CALIBRATED)
def test_the_search_decides_on_trained_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is used, ggml's slower one is asked for no row."""
    values = weights()["heavy tails"]
    assert ggml_search._has_ggmls_bytes(kind, calibrated=True) or platform.machine() != "x86_64"
    theirs = encode_rows(values, TYPES[kind], name="it", importance=np.ones(512, np.float32))
    monkeypatch.setattr(ggml_search, "encode_rows", None)
    ours = ggml_search._encoded(values, TYPES[kind], "it", np.ones(512, np.float32))
    if platform.machine() == "x86_64":
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "calibrated"),
    [(kind, calibrated) for kind in KINDS for calibrated in (False, True)] + [(kind, True) for kind in CALIBRATED],
)
def test_the_search_is_used_where_it_agrees_with_ggml_and_only_there(
    kind: str, calibrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    importance = np.random.default_rng(2).lognormal(0, 1, 512).astype(np.float32) if calibrated else None
    ggml_search._has_ggmls_bytes.cache_clear()
    agreed = ggml_search._has_ggmls_bytes(kind, calibrated=calibrated)
    values = weights()["heavy tails"]
    theirs = encode_rows(values, TYPES[kind], name="it", importance=importance)
    few = k_quants.widths(-1.0, 0.1, 2)  # as of another ggml
    monkeypatch.setattr(k_quants, "PLAIN", dict.fromkeys(k_quants.PLAIN, few))
    monkeypatch.setattr(k_quants, "CALIBRATED", few)
    monkeypatch.setattr(iq4_quants, "TRIALS", 1)
    monkeypatch.setattr(signed_quants, "TRIALS", 1)
    monkeypatch.setattr(signed_quants, "ROUNDS", 1)
    if agreed:
        assert (encode_matrix(values, TYPES[kind], name="it", importance=importance) != theirs.reshape(-1)).any()
    ggml_search._has_ggmls_bytes.cache_clear()
    ours = encode_matrix(values, TYPES[kind], name="it", importance=importance)
    np.testing.assert_array_equal(ours, theirs.reshape(-1))
    ggml_search._has_ggmls_bytes.cache_clear()


def test_a_weight_that_no_block_can_hold_names_the_tensor() -> None:
    with pytest.raises(CheckpointError, match="tensor 'down' holds a value of magnitude 1e"):
        encode_matrix(np.full((1, 256), 1e6, np.float32), TYPES["Q4_K"], name="down")
