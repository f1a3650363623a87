"""The synthetic model whose greedy answers survive four bits, as a trained model's do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference
from builders.reference.rounded import rounded_logits
from devtools import synthetic
from devtools.synthetic import FOLLOWS, write_synthetic

PROMPT, NEW = 12, 32
VOCABULARY = 512
SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 64,
    "sliding_window": 40,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0] * 16,
        "long_factor": [1.0 + number for number in range(16)],
    },
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.CONFIGS, "mini", synthetic.CONFIGS["mini"] | SMALL)
    monkeypatch.setattr(synthetic, "POOL_ELEMENTS", (1 << 17) + 29)


def written(folder: Path, undecided: float | None) -> Checkpoint:
    return open_checkpoint(write_synthetic("mini", folder / "model", undecided=undecided))


def answers(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Return the reference's greedy answers [8, NEW], and each token before one of them."""
    prompts = np.random.default_rng(1).integers(3, VOCABULARY, (8, PROMPT))
    found = FloatReference(checkpoint).greedy(prompts, NEW)
    return found, np.concatenate([prompts, found[:, :-1]], axis=1)


def accepted(checkpoint: Checkpoint) -> float:
    """Return the share of the reference's tokens that the same model writes with weights of four bits."""
    found, read = answers(checkpoint)
    rounded = np.stack([rounded_logits(checkpoint, ids, 4)[PROMPT - 1 :].argmax(-1) for ids in read])
    return float((rounded == found).mean())


@pytest.mark.parametrize(("undecided", "low", "high"), [(0.0, 0.99, 1.0), (0.3, 0.88, 0.98), (1.0, 0.5, 0.8)])
def test_the_share_of_undecided_tokens_sets_how_much_four_bits_accept(
    tmp_path: Path, undecided: float, low: float, high: float
) -> None:
    assert low <= accepted(written(tmp_path, undecided)) <= high


def test_of_random_weights_four_bits_accept_half_of_a_small_model(tmp_path: Path) -> None:
    assert accepted(written(tmp_path, None)) < 0.7


def test_a_decided_token_is_followed_by_the_one_that_is_meant(tmp_path: Path) -> None:
    found, read = answers(written(tmp_path, 0.0))
    np.testing.assert_array_equal(found, (read[:, PROMPT - 1 :] + FOLLOWS) % VOCABULARY)


def test_every_layer_and_what_lies_far_back_has_a_part_in_the_logits(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 0.3)
    tokens = np.random.default_rng(2).integers(3, VOCABULARY, 100)  # past the window and past longrope's edge
    exact = rounded_logits(checkpoint, tokens, 16)[-1]
    other = tokens.copy()
    other[70] = tokens[70] + 1
    assert np.abs(rounded_logits(checkpoint, other, 16)[-1] - exact).max() > 0.01
    other = tokens.copy()
    other[:5] += 1  # four windows of 40 reach further back than these
    assert np.abs(rounded_logits(checkpoint, other, 16)[-1] - exact).max() > 1e-4


def test_only_a_model_with_a_head_of_its_own_can_be_sure(tmp_path: Path) -> None:
    synthetic.CONFIGS["mini"]["tie_word_embeddings"] = True
    with pytest.raises(ValueError, match="head of their own"):
        write_synthetic("mini", tmp_path / "model", undecided=0.1)
    assert not (tmp_path / "model").exists()


def test_without_a_share_the_weights_are_plain_random_ones(tmp_path: Path) -> None:
    plain, sure = (
        load_file(write_synthetic("mini", tmp_path / name, undecided=share) / "model.safetensors")
        for name, share in (("plain", None), ("sure", 0.0))
    )
    deviations = {name: float(values.astype(np.float32).std()) for name, values in plain.items() if values.ndim == 2}
    assert all(value == pytest.approx(synthetic.WEIGHT_DEVIATION, rel=0.05) for value in deviations.values())
    assert float(sure["model.embed_tokens.weight"].astype(np.float32).std()) == pytest.approx(1, rel=0.05)
