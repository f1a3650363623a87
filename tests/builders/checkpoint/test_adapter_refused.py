"""Adapters that are refused: one error, which names the file and the key or tensor, and says what to do."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.checkpoint.adapter import merge
from builders.checkpoint.adapter.config import HARMLESS, UNSUPPORTED, AdapterConfig
from targets.errors import CheckpointError, PhipackError, UnsupportedModelError
from tests.support.adapters import PREFIX, change_config, change_tensors, write_adapter
from tests.support.checkpoints import write_json, write_tiny

Damage = Callable[[Path], object]
FIRST = f"{PREFIX}model.layers.0.self_attn.qkv_proj.lora_A.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(base, tmp_path_factory.mktemp("adapter") / "adapter", bias="none")


@pytest.fixture
def adapter(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "adapter"))


def refusal(base: Path, adapter: Path, error: type[PhipackError] = CheckpointError) -> PhipackError:
    with pytest.raises(error) as caught:
        merge(open_checkpoint(base), adapter)
    assert str(adapter) in caught.value.problem
    assert caught.value.fix
    return caught.value


CONFIGS: dict[str, tuple[dict[str, Any], type[PhipackError], str]] = {
    "another type": ({"peft_type": "LOHA"}, UnsupportedModelError, "peft_type is 'LOHA'"),
    "no type": ({"peft_type": None}, UnsupportedModelError, "peft_type is None"),
    "classification": ({"task_type": "SEQ_CLS"}, UnsupportedModelError, "task_type is 'SEQ_CLS'"),
    "pissa": ({"init_lora_weights": "pissa_niter_16"}, UnsupportedModelError, "PiSSA changes the base's weights"),
    "olora": ({"init_lora_weights": "olora"}, UnsupportedModelError, "OLoRA changes the base's weights"),
    "corda": ({"init_lora_weights": "corda"}, UnsupportedModelError, "CorDA changes the base's weights"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, UnsupportedModelError, "LoRA-GA changes the base's weights"),
    "loftq": ({"init_lora_weights": "loftq"}, UnsupportedModelError, "LoftQ changes the base's weights"),
    "an unknown start": ({"init_lora_weights": "zigzag"}, UnsupportedModelError, "'zigzag', which is not known"),
    "a key of tomorrow": ({"use_tomorrow": 3}, UnsupportedModelError, "unknown key 'use_tomorrow' with value 3"),
    "no targets": ({"target_modules": None}, CheckpointError, "target_modules is null"),
    "targets of another base": ({"target_modules": ["c_attn"]}, CheckpointError, "selects no module of the base"),
    "a norm": ({"target_modules": ["norm", "qkv_proj"]}, UnsupportedModelError, "model.norm, which is a norm"),
    "a rank of text": ({"r": "8"}, CheckpointError, "r: Input should be a valid integer"),
    "a rank of 0": ({"r": 0}, CheckpointError, "r: Input should be greater than or equal to 1"),
    "another rank": ({"r": 8}, CheckpointError, f"tensor {FIRST!r} has shape [4, 64]"),
    "an endless alpha": ({"lora_alpha": float("nan")}, CheckpointError, "lora_alpha: Input should be a finite number"),
    "no expression": ({"rank_pattern": {"[": 4}}, CheckpointError, "rank_pattern: '[' is not a regular expression"),
    "expression and layers": (
        {"target_modules": ".*proj", "layers_to_transform": [0]},
        CheckpointError,
        "layers_to_transform goes with a list",
    ),
    "more is targeted than saved": (
        {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"]},
        CheckpointError,
        f"tensor '{PREFIX}lm_head.lora_A.weight' is missing",
    ),
    "less is targeted than saved": ({"target_modules": ["qkv_proj"]}, CheckpointError, "belongs to no module that"),
    "a saved module of another base": ({"modules_to_save": ["score"]}, CheckpointError, "names 'score'"),
    "a saved module that is not in the file": (
        {"modules_to_save": ["lm_head"]},
        CheckpointError,
        f"tensor '{PREFIX}lm_head.weight' is missing",
    ),
    "dora without magnitudes": ({"use_dora": True}, CheckpointError, "lora_magnitude_vector' is missing"),
    "tokens that are not in the file": (
        {"trainable_token_indices": [3]},
        CheckpointError,
        "trainable_tokens_delta' is missing",
    ),
    "tokens past the vocabulary": ({"trainable_token_indices": [320]}, CheckpointError, "from 0 to 319"),
    "tokens of a layer": ({"trainable_token_indices": {"o_proj": [3]}}, UnsupportedModelError, "of 'o_proj'"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_is_refused_by_its_key(base: Path, adapter: Path, case: str) -> None:
    changes, error, said = CONFIGS[case]
    change_config(adapter, lambda content: content.update(changes))
    assert said in refusal(base, adapter, error).problem


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_a_feature_that_can_not_be_merged_is_refused_with_the_reason(base: Path, adapter: Path, key: str) -> None:
    change_config(adapter, lambda content: content.update({key: [1]}))
    problem = refusal(base, adapter, UnsupportedModelError).problem
    assert f"{key} is set" in problem
    assert UNSUPPORTED[key] in problem


def test_every_key_that_peft_has_is_accounted_for() -> None:
    import peft

    keys = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert keys == set(AdapterConfig.model_fields) | set(HARMLESS) | set(UNSUPPORTED)


def test_harmless_keys_and_unknown_ones_that_are_off_are_read_past(base: Path, adapter: Path) -> None:
    change_config(adapter, lambda content: content.update(dict.fromkeys(HARMLESS, "anything"), tomorrow=False, more=[]))
    assert merge(open_checkpoint(base), adapter).changes


def _drop(tensors: dict[str, np.ndarray]) -> None:
    del tensors[FIRST]


def _add(tensors: dict[str, np.ndarray]) -> None:
    tensors[f"{PREFIX}model.layers.2.self_attn.qkv_proj.lora_A.weight"] = np.zeros((4, 64), np.float32)


def _reshape(tensors: dict[str, np.ndarray]) -> None:
    tensors[FIRST] = np.zeros((4, 96), np.float32)


def _whole_matrix(tensors: dict[str, np.ndarray]) -> None:
    tensors[f"{PREFIX}model.layers.0.mlp.down_proj.weight"] = np.zeros((64, 128), np.float32)


def _renamed(old: str, new: str) -> Callable[[dict[str, np.ndarray]], None]:
    def rename(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return rename


TENSORS: dict[str, tuple[Callable[[dict[str, np.ndarray]], None], str, str]] = {
    "missing": (_drop, f"tensor {FIRST!r} is missing", "name the checkpoint"),
    "extra": (_add, "layers.2.self_attn.qkv_proj.lora_A.weight' belongs to no module", "name the checkpoint"),
    "of another shape": (_reshape, f"tensor {FIRST!r} has shape [4, 96]; with this base", "name the checkpoint"),
    "a whole matrix nobody announced": (_whole_matrix, "mlp.down_proj.weight' belongs to no module", "name the"),
    "without peft's prefix": (_renamed(PREFIX, ""), "tensor 'model.layers.0.", "its names are base_model.model.MODULE"),
    "compiled": (_renamed(PREFIX, f"{PREFIX}_orig_mod."), "'base_model.model._orig_mod.", "its names are"),
    "with the adapter's name": (_renamed(".weight", ".default.weight"), "lora_A.default.weight' is not", "its names"),
    "of llama's layout": (_renamed("qkv_proj", "q_proj"), f"tensor {FIRST!r} is missing", "--layout llama"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_are_refused_by_name(base: Path, adapter: Path, case: str) -> None:
    change, said, fix = TENSORS[case]
    change_tensors(adapter, change)
    error = refusal(base, adapter)
    assert said in error.problem
    assert fix in error.fix


def test_an_extra_tensor_without_the_prefix_is_refused(base: Path, adapter: Path) -> None:
    change_tensors(adapter, lambda tensors: tensors.update({"model.norm.weight": np.ones(64, np.float32)}))
    assert "tensor 'model.norm.weight' is not a name that peft" in refusal(base, adapter).problem


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_when_it_is_read(base: Path, adapter: Path, value: float) -> None:
    change_tensors(adapter, lambda tensors: tensors[FIRST].__setitem__((1, 2), value))
    source = merge(open_checkpoint(base), adapter).open_tensors()
    with pytest.raises(CheckpointError, match=r"lora_A\.weight' holds (nan|inf)") as caught:
        source.tensor("model.layers.0.self_attn.qkv_proj.weight")
    assert str(adapter) in caught.value.problem


def test_a_merge_that_overflows_is_refused(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base", dtype="F16")
    adapter = write_adapter(base, tmp_path / "adapter")
    change_tensors(adapter, lambda tensors: tensors.update({FIRST: tensors[FIRST] * 1e7}))
    source = merge(open_checkpoint(base), adapter).open_tensors()
    with pytest.raises(
        CheckpointError, match=r"merged with it, tensor 'model\.layers\.0\.self_attn\.qkv_proj\.weight'"
    ):
        source.stored_tensor("model.layers.0.self_attn.qkv_proj.weight")


def test_an_adapter_of_phi_3s_layout_on_a_llama_base_says_how_to_convert(adapter: Path, tmp_path: Path) -> None:
    assert "--layout phi3" in refusal(write_tiny(tmp_path / "llama", family="llama"), adapter).fix


def test_a_wider_base_is_refused_by_the_first_shape(adapter: Path, tmp_path: Path) -> None:
    wide = write_tiny(tmp_path / "wide", hidden=96)
    assert f"tensor {FIRST!r} has shape [4, 64]; with this base" in refusal(wide, adapter).problem


@pytest.mark.parametrize("changes", [{"target_modules": ["embed_tokens"]}, {"target_modules": ["lm_head"]}])
def test_a_product_on_a_tied_head_or_embedding_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    tied = write_tiny(tmp_path / "tied", tied=True)
    adapter = write_adapter(tied, tmp_path / "adapter", **changes)
    assert "the base's head is its embedding" in refusal(tied, adapter, UnsupportedModelError).problem


@pytest.mark.parametrize("tokens", [{"lm_head": [3]}, {"embed_tokens": [3, 5], "lm_head": [3, 6]}])
def test_other_tokens_of_a_tied_head_are_refused(tmp_path: Path, tokens: dict[str, list[int]]) -> None:
    tied = write_tiny(tmp_path / "tied", tied=True)
    adapter = write_adapter(tied, tmp_path / "adapter", trainable_token_indices=tokens)
    assert "trainable_token_indices differ" in refusal(tied, adapter, UnsupportedModelError).problem


def test_a_tied_head_that_was_saved_with_other_values_is_refused(tmp_path: Path) -> None:
    tied = write_tiny(tmp_path / "tied", tied=True, dtype="F32")
    adapter = write_adapter(tied, tmp_path / "adapter", save_embedding_layers=True)
    assert merge(open_checkpoint(tied), adapter).architecture.tied_embeddings
    change_tensors(adapter, lambda tensors: tensors[f"{PREFIX}lm_head.weight"].__setitem__((0, 0), 9.0))
    assert "differ, but the base's head is its embedding" in refusal(tied, adapter, UnsupportedModelError).problem


def test_dora_on_the_embedding_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"], use_dora=True)
    assert "use_dora with a product on model.embed_tokens" in refusal(base, adapter, UnsupportedModelError).problem


def test_another_height_of_the_embedding_alone_is_refused(base: Path, adapter: Path) -> None:
    name = f"{PREFIX}model.embed_tokens.weight"
    change_tensors(adapter, lambda tensors: tensors.update({name: np.zeros((330, 64), np.float32)}))
    assert "the merged embedding has 330 rows, the head 320" in refusal(base, adapter).problem


def test_phi_3_small_keeps_its_one_embedding(tmp_path: Path) -> None:
    small = write_tiny(tmp_path / "small", family="phi3small", tied=True)
    adapter = write_adapter(
        small, tmp_path / "adapter", target_modules=["dense"], modules_to_save=["embed_tokens"], task_type=None
    )
    assert "its head is its embedding" in refusal(small, adapter, UnsupportedModelError).problem


def test_an_adapter_that_changes_nothing_is_refused(base: Path, adapter: Path) -> None:
    change_config(adapter, lambda content: content.update(target_modules=["c_attn"]))
    change_tensors(adapter, lambda tensors: tensors.clear())
    assert "changes no tensor of the base" in refusal(base, adapter).problem


def test_what_is_no_adapters_folder_is_named(base: Path, whole: Path, tmp_path: Path) -> None:
    assert "is a whole checkpoint" in refusal(base, base).problem
    (empty := tmp_path / "empty").mkdir()
    assert "is no adapter" in refusal(base, empty).problem
    assert "is not a folder" in refusal(base, tmp_path / "nowhere").problem
    shutil.copytree(whole, tmp_path / "run" / "support")
    assert f"--adapter {tmp_path / 'run' / 'support'}" in refusal(base, tmp_path / "run").fix


def test_pickled_weights_are_refused_and_next_to_safetensors_not_read(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"")
    assert merge(open_checkpoint(base), adapter)
    (adapter / "adapter_model.safetensors").unlink()
    assert "pickled" in refusal(base, adapter).problem
    (adapter / "adapter_model.bin").unlink()
    assert "no adapter_model.safetensors" in refusal(base, adapter).problem


@pytest.mark.parametrize(
    "name",
    ["non_lora_trainables.bin", "trainable_params.bin", "model.safetensors", "adapter_model.safetensors.index.json"],
)
def test_other_weights_in_the_folder_are_refused_by_name(base: Path, adapter: Path, name: str) -> None:
    (adapter / name).write_bytes(b"")
    assert str(adapter / name) in refusal(base, adapter).problem


def test_a_training_runs_own_files_are_left_alone(base: Path, adapter: Path) -> None:
    before = merge(open_checkpoint(base), adapter).digest
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json"):
        (adapter / name).write_bytes(b"")
    assert merge(open_checkpoint(base), adapter).digest == before


def test_copies_of_the_bases_configs_must_say_the_same(base: Path, adapter: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        shutil.copy(base / name, adapter / name)
    assert merge(open_checkpoint(base), adapter)
    generation = json.loads((base / "generation_config.json").read_bytes())
    write_json(adapter / "generation_config.json", generation | {"eos_token_id": 5})
    assert "generation_config.json: eos_token_id is 5" in refusal(base, adapter).problem
    config = json.loads((base / "config.json").read_bytes())
    write_json(adapter / "config.json", config | {"rope_theta": 5e5})
    assert "config.json: rope_theta is 500000.0" in refusal(base, adapter).problem
