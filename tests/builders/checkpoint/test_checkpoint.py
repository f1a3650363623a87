"""A sound checkpoint opens and gives its tensors; a damaged one is refused, with the file, tensor or key named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.tokenizer import stop_token_ids
from registry.files import large_file
from targets.errors import CheckpointError, UnsupportedModelError
from tests.support.checkpoints import Tiny, edit_json, random_weights, write_tiny, write_weights

Damage = Callable[[Path], None]
QKV = "model.layers.0.self_attn.qkv_proj.weight"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def weights(**changes: Any) -> dict[str, np.ndarray]:
    return {**random_weights(Tiny().config()), **changes}


def edit_config(folder: Path, **changes: Any) -> None:
    edit_json(folder / "config.json", **changes)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_tensors_come_back_as_written(tmp_path: Path, dtype: str) -> None:
    opened = open_checkpoint(write_tiny(tmp_path / "c", dtype=dtype))
    tolerance = {"F32": 0, "F16": 2**-11, "BF16": 2**-8}[dtype]
    for name, expected in weights().items():
        found = opened.open_tensors().tensor(name)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-7 if dtype == "F16" else 0)


def test_shards_and_one_file_hold_the_same(tiny: Checkpoint, tmp_path: Path) -> None:
    sharded = open_checkpoint(write_tiny(tmp_path / "c", shards=3))
    assert len(sharded.shard_files) == 3
    one, several = tiny.open_tensors(), sharded.open_tensors()
    for name in tiny.architecture.tensor_shapes():
        np.testing.assert_array_equal(several.tensor(name), one.tensor(name))


def test_a_tensor_is_a_copy_that_may_be_changed(tiny: Checkpoint) -> None:
    source = tiny.open_tensors()
    before = source.tensor(QKV)
    source.tensor(QKV)[:] = 0
    np.testing.assert_array_equal(source.tensor(QKV), before)


def test_the_digest_follows_content_not_place(tiny: Checkpoint, folder: Path) -> None:
    assert open_checkpoint(folder).digest == tiny.digest
    edit_json(folder / "generation_config.json", eos_token_id=[310])
    assert open_checkpoint(folder).digest != tiny.digest


def test_stop_ids_are_those_of_the_generation_config(tiny: Checkpoint, folder: Path) -> None:
    assert stop_token_ids(tiny) == (310, 311, 312)
    edit_json(folder / "generation_config.json", eos_token_id=311)
    assert stop_token_ids(open_checkpoint(folder)) == (311,)


@pytest.mark.parametrize("token", [320, -1, True, "310", [310, 1.5]])
def test_a_stop_id_outside_the_vocabulary_is_refused(folder: Path, token: object) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=token)
    with pytest.raises(CheckpointError, match=r"eos_token_id .* is not an id of the vocabulary"):
        stop_token_ids(open_checkpoint(folder))


def test_the_chat_template_is_found_in_each_of_its_places(tiny: Checkpoint, folder: Path) -> None:
    assert tiny.chat_template is not None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit_json(folder / "tokenizer_config.json", chat_template=named)
    assert open_checkpoint(folder).chat_template == "D"
    (folder / "chat_template.jinja").write_text("file", "utf-8")
    assert open_checkpoint(folder).chat_template == "file"
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        _ = open_checkpoint(folder).chat_template


def test_a_tied_head_may_be_repeated_in_the_file(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c", tied=True)
    tied = random_weights(Tiny(tied=True).config())
    write_weights(folder, {**tied, "lm_head.weight": tied["model.embed_tokens.weight"]})
    assert open_checkpoint(folder).architecture.head_tensor == "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"architectures": ...}, CheckpointError, "'architectures' is missing"),
        ({"architectures": []}, CheckpointError, "'architectures' is missing"),
        ({"architectures": "Phi3ForCausalLM"}, CheckpointError, "'architectures' is missing"),
        ({"architectures": [3]}, CheckpointError, "'architectures' is missing"),
        ({"architectures": ["BertModel"]}, UnsupportedModelError, "'BertModel' is not supported"),
        ({"architectures": ["Phi3ForCausalML"]}, UnsupportedModelError, "did you mean 'Phi3ForCausalLM'"),
        ({"hidden_size": "64"}, CheckpointError, "hidden_size must be a positive whole number, not '64'"),
        ({"hidden_size": 62}, CheckpointError, "don't divide"),
        ({"num_key_value_heads": 3}, CheckpointError, "don't divide"),
        ({"num_hidden_layers": 0}, CheckpointError, "num_hidden_layers"),
        ({"num_hidden_layers": 2_000_000_000}, CheckpointError, "num_hidden_layers 2000000000"),
        ({"num_hidden_layers": 10**300}, CheckpointError, "num_hidden_layers"),
        ({"vocab_size": True}, CheckpointError, "vocab_size"),
        ({"rope_theta": 10**400}, CheckpointError, "rope_theta"),
        ({"rope_theta": float("nan")}, CheckpointError, "rope_theta"),
        ({"rms_norm_eps": -1.0}, CheckpointError, "rms_norm_eps"),
        ({"sliding_window": 0}, CheckpointError, "sliding_window"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, "hidden_act 'gelu'"),
        ({"attention_bias": True}, UnsupportedModelError, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, UnsupportedModelError, "quantization_config"),
        ({"partial_rotary_factor": 1.5}, CheckpointError, "partial_rotary_factor"),
        ({"rope_scaling": "longrope"}, CheckpointError, "rope_scaling must be null or an object"),
        ({"rope_scaling": {"type": "yarn"}}, UnsupportedModelError, "rope_scaling type 'yarn'"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8}}, CheckpointError, "long_factor must list 8"),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0] * 7, "long_factor": [1.0] * 8}},
            CheckpointError,
            "short_factor must list 8 numbers, not 7",
        ),
        (
            {"rope_scaling": {"type": "su", "short_factor": [0.0] * 8, "long_factor": [1.0] * 8}},
            CheckpointError,
            "short_factor holds a value that is not a positive number",
        ),
        (
            {
                "rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
                "original_max_position_embeddings": 1,
            },
            CheckpointError,
            "original_max_position_embeddings",
        ),
        ({"intermediate_size": 127}, CheckpointError, "gate_up_proj.weight' has shape"),
    ],
)
def test_a_wrong_config_is_refused_by_its_key(
    folder: Path, changes: dict[str, Any], error: type[CheckpointError], words: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(error, match=words) as caught:
        open_checkpoint(folder)
    assert type(caught.value) is error


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str, keep: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep]) and None


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def reshaped(folder: Path) -> None:
    write_weights(folder, weights(**{QKV: np.zeros((128, 63), np.float32)}))


def renamed(folder: Path) -> None:
    changed = weights()
    changed["model.layers.0.self_attn.q_proj.weight"] = changed.pop(QKV)
    write_weights(folder, changed)


def extended(folder: Path) -> None:
    write_weights(folder, weights(**{"model.layers.0.self_attn.q_norm.weight": np.ones(8, np.float32)}))


def integers(folder: Path) -> None:
    save_file(weights(**{QKV: np.zeros((128, 64), np.int8)}), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (remove("config.json"), CheckpointError, r"config\.json is missing"),
        (write("config.json", b"{'single': quotes}"), CheckpointError, r"config\.json: not valid JSON"),
        (write("config.json", b"\xff\xfe{"), CheckpointError, r"config\.json: not valid JSON"),
        (write("config.json", b"[" * 100_000), CheckpointError, r"config\.json: not valid JSON"),
        (write("config.json", b"[1]"), CheckpointError, r"config\.json: a JSON object was expected"),
        (write("generation_config.json", b"{"), CheckpointError, r"generation_config\.json: not valid JSON"),
        (remove("tokenizer.json"), CheckpointError, r"no tokenizer: neither tokenizer\.json nor tokenizer\.model"),
        (remove("model.safetensors"), CheckpointError, "no weights"),
        (pickled, CheckpointError, r"pickled \(pytorch_model\.bin\)(.|\n)*safe_serialization"),
        (cut("model.safetensors", 0), CheckpointError, r"model\.safetensors: truncated"),
        (cut("model.safetensors", 5), CheckpointError, r"model\.safetensors: truncated"),
        (cut("model.safetensors", 300), CheckpointError, r"model\.safetensors: truncated"),
        (cut("model.safetensors", -1), CheckpointError, r"model\.safetensors: .* truncated or damaged"),
        (reshaped, CheckpointError, r"qkv_proj\.weight' has shape \[128, 63\], config\.json asks for \[128, 64\]"),
        (renamed, CheckpointError, r"q_proj\.weight' is LlamaForCausalLM's, but config\.json says Phi3ForCausalLM"),
        (extended, CheckpointError, r"q_norm\.weight' is not part of Phi3ForCausalLM"),
        (integers, UnsupportedModelError, r"qkv_proj\.weight' has dtype I8"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage: Damage, error: type[CheckpointError], words: str) -> None:
    damage(folder)
    with pytest.raises(error, match=words) as caught:
        open_checkpoint(folder)
    assert type(caught.value) is error
    assert str(folder) in str(caught.value)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float, shown: str, dtype: str) -> None:
    broken = weights()
    broken[QKV][1, 2] = value
    write_weights(folder, broken, dtype=dtype)
    source = open_checkpoint(folder).open_tensors()
    source.tensor("model.norm.weight")
    with pytest.raises(CheckpointError, match=rf"'{QKV}' holds {shown}"):
        source.tensor(QKV)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("family", ["phi3", "phi3small", "llama"])
def test_what_memory_can_not_keep_is_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, dtype: str
) -> None:
    folder = write_tiny(tmp_path / "checkpoint", family=family, dtype=dtype)
    kept = open_checkpoint(folder)
    assert not kept.past_cache
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1}[name])
    monkeypatch.setattr(large_file, "_BUFFER_BYTES", 8192)
    read = open_checkpoint(folder)
    assert read.past_cache
    assert read.digest == kept.digest
    ours, theirs = read.open_tensors(), kept.open_tensors()
    for name in kept.architecture.tensor_shapes():
        assert np.array_equal(ours.tensor(name), theirs.tensor(name))
    for name in kept.stored_tensors:
        assert np.array_equal(ours.stored_tensor(name), theirs.stored_tensor(name))
