"""optimum's export as the way out for architectures that our writers don't know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.optimum_export import export
from targets.errors import CheckpointError, UnsupportedModelError
from tests.support.checkpoints import write_json, write_tiny, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|optimum|onnx|google).*")


def _unknown(folder: Path) -> Path:
    """Write a tiny GPT-NeoX, which phipack has no writer for."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_an_architecture_without_a_writer_is_exported(tmp_path: Path) -> None:
    import onnxruntime
    import torch
    import transformers

    folder = _unknown(tmp_path / "neox")
    with pytest.raises(UnsupportedModelError, match=r"'GPTNeoXForCausalLM' is not supported") as refused:
        open_checkpoint(folder)
    assert "phipack export" in (refused.value.fix or "")
    assert "model.onnx" in export(folder, tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    tokens = np.random.default_rng(0).integers(0, 300, (1, 9))
    feeds = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "position_ids": np.arange(9)[None]}
    for entry in session.get_inputs():
        if entry.name.startswith("past"):
            feeds[entry.name] = np.zeros((1, 2, 0, 16), np.float32)
    names = {entry.name for entry in session.get_inputs()}
    logits = session.run(["logits"], {name: value for name, value in feeds.items() if name in names})[0]
    with torch.no_grad():
        expected = transformers.GPTNeoXForCausalLM.from_pretrained(folder)(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_what_optimum_gets_wrong_is_refused(tmp_path: Path) -> None:
    longrope = write_tiny(tmp_path / "checkpoint", original_context=64)
    with pytest.raises(UnsupportedModelError, match="freezes longrope to the short factors: wrong past 64 tokens"):
        export(longrope, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("nested", [False, True])
def test_a_rope_that_optimum_would_skip_is_refused(tmp_path: Path, nested: bool) -> None:
    folder = _unknown(tmp_path / "neox")
    config = json.loads((folder / "config.json").read_bytes())
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    write_json(folder / "config.json", config | ({"text_config": rope} if nested else rope))
    with pytest.raises(UnsupportedModelError, match="rope_parameters is transformers 5's"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    write_json(folder / "config.json", {"architectures": ["NobodysForCausalLM"], "model_type": "nobodys"})
    with pytest.raises(UnsupportedModelError, match=r"optimum can't export it: .*nobodys"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickles_and_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json can't be read"):
        export(tmp_path, tmp_path / "out")
    write_json(tmp_path / "config.json", [])
    with pytest.raises(CheckpointError, match=r"config\.json must hold an object, not list"):
        export(tmp_path, tmp_path / "out")
    write_json(tmp_path / "config.json", {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"})
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled"):
        export(tmp_path, tmp_path / "out")
