"""Phi-3 in Llama's layout and back: the same bytes, and the same answers up to the sliding window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.checkpoint.shards import MappedTensors
from builders.reference.logits import FloatReference
from builders.relayout import relayout
from builders.tokenizer import load_tokenizer, stop_token_ids
from targets.errors import UnsupportedModelError
from tests.support.checkpoints import edit_json, write_json, write_tiny
from tests.support.sentencepiece_folder import write_sentencepiece
from tests.support.transformers_models import transformers_logits


def _both(folder: Path, **changes: object) -> tuple[Path, Path, tuple[str, ...]]:
    phi = write_tiny(folder / "phi", **changes)
    notes = relayout(open_checkpoint(phi), "llama", folder / "llama")
    return phi, folder / "llama", notes


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"shards": 3}, {"dtype": "F32", "kv_heads": 4}])
def test_transformers_llama_answers_as_phi_3(tmp_path: Path, changes: dict[str, object]) -> None:
    phi, llama, notes = _both(tmp_path, **changes)
    tokens = np.random.default_rng(1).integers(0, 300, (1, 40))
    reference = FloatReference(open_checkpoint(phi))
    np.testing.assert_allclose(
        transformers_logits(llama, tokens[0]), reference.logits(reference.hidden(tokens)[0]), atol=1e-4
    )
    assert notes == ()


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"window": 100}, {"shards": 2}])
def test_the_way_back_restores_every_byte(tmp_path: Path, changes: dict[str, object]) -> None:
    phi, llama, _ = _both(tmp_path, **changes)
    relayout(open_checkpoint(llama), "phi3", tmp_path / "again")
    before, after = open_checkpoint(phi), open_checkpoint(tmp_path / "again")
    assert after.architecture == before.architecture
    assert stop_token_ids(after) == stop_token_ids(before)
    assert after.chat_template == before.chat_template
    for name in before.architecture.tensor_shapes():
        assert after.stored_tensors[name].dtype == before.stored_tensors[name].dtype
        stored = (MappedTensors(each.stored_tensors).stored(name) for each in (before, after))
        np.testing.assert_array_equal(*stored)


def test_partly_rotated_heads_are_refused(tmp_path: Path) -> None:
    phi = open_checkpoint(write_tiny(tmp_path / "phi", rotated=0.5))
    with pytest.raises(UnsupportedModelError, match="rotates whole heads; this checkpoint rotates 8 of 16"):
        relayout(phi, "llama", tmp_path / "llama")
    assert [path.name for path in tmp_path.iterdir()] == ["phi"]


@pytest.mark.parametrize("legacy", [True, False])
def test_the_tokenizer_stays_the_same(tmp_path: Path, legacy: bool) -> None:
    """The same files under model type llama are another tokenizer: transformers rebuilds it from its class."""
    phi = write_sentencepiece(tmp_path / "phi")
    edit_json(phi / "tokenizer_config.json", legacy=legacy)
    relayout(open_checkpoint(phi), "llama", tmp_path / "llama")
    ours, theirs = load_tokenizer(phi), load_tokenizer(tmp_path / "llama")
    for text in ("  the town<|user|>\n in <|end|> x", "the"):
        assert theirs.encode(text, add_special_tokens=True) == ours.encode(text, add_special_tokens=True)


def test_a_window_is_noted_and_ends_the_agreement(tmp_path: Path) -> None:
    phi, llama, notes = _both(tmp_path, window=16)
    assert "the same model up to 16 tokens" in notes[0]
    tokens = np.random.default_rng(1).integers(0, 300, (1, 40))
    ours, theirs = (FloatReference(open_checkpoint(folder)).hidden(tokens)[0] for folder in (phi, llama))
    np.testing.assert_allclose(theirs[:16], ours[:16], atol=1e-4)
    assert np.abs(theirs[16:] - ours[16:]).max() > 0.01


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        ({"original_context": 64}, "llama", "Llama's layout has no longrope"),
        ({"family": "phi3small"}, "llama", "Phi-3-small can't be written in the llama layout"),
        ({"family": "phi3small"}, "phi3", "Phi-3-small can't be written in the phi3 layout"),
        ({}, "phi3", "already has the phi3 layout"),
        ({"family": "llama"}, "llama", "already has the llama layout"),
    ],
)
def test_what_the_layout_can_not_express_is_refused(
    tmp_path: Path, changes: dict[str, object], layout: str, message: str
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", **changes))
    with pytest.raises(UnsupportedModelError, match=message):
        relayout(checkpoint, layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_of_several_dtypes_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    llama = write_tiny(tmp_path / "llama", family="llama", dtype="F16")
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.1.self_attn.k_proj.weight"] = weights["model.layers.1.self_attn.k_proj.weight"].astype("f4")
    save_file(weights, llama / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"k_proj.*become one, but are stored as F16, F32"):
        relayout(open_checkpoint(llama), "phi3", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_keys_that_llama_does_not_have_are_left_out(tmp_path: Path) -> None:
    phi = write_tiny(tmp_path / "phi", window=100)
    config = json.loads((phi / "config.json").read_bytes())
    write_json(phi / "config.json", config | {"auto_map": {"AutoConfig": "code.py"}, "resid_pdrop": 0.0})
    relayout(open_checkpoint(phi), "llama", tmp_path / "llama")
    written = json.loads((tmp_path / "llama" / "config.json").read_bytes())
    assert written.keys().isdisjoint({"auto_map", "resid_pdrop", "original_max_position_embeddings"})
    assert (written["model_type"], written["phipack_sliding_window"]) == ("llama", 100)
    assert "sliding_window" not in written
