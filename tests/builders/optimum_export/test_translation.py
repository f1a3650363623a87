"""Configs in transformers 5's form as transformers 4 reads them, and what has no such form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.optimum_export.translation import link_for_transformers_4, translate
from targets.errors import UnsupportedModelError
from tests.support.checkpoints import write_json, write_tiny
from tests.support.transformers_5 import v4_config, v5_config

ROPE = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_emb_base", "rotary_pct", "rope_parameters")
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"rope_theta": 5.0, "rope_scaling": None}, {"rope_theta": 5.0, "rope_scaling": None}),
        ({"rope_parameters": None}, {}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            {"rope_theta": 5e5, "rope_scaling": None},
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.75}},
            {"rope_theta": 5e5, "partial_rotary_factor": 0.75, "rope_scaling": None},
        ),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
        (
            {"rope_parameters": {"type": "linear", "factor": 2.0}},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 300.0, "partial_rotary_factor": 0.5}},
            {"rotary_emb_base": 300.0, "rotary_pct": 0.5, "rope_scaling": None},
        ),
    ],
)
def test_the_rope_is_written_in_transformers_4s_keys(config: dict[str, Any], expected: dict[str, Any]) -> None:
    translated = translate(config | {"hidden_size": 64}, Path("config.json"))
    assert {key: value for key, value in translated.items() if key in ROPE} == expected
    assert translated["hidden_size"] == 64


@pytest.mark.parametrize("name", ["phi3", "llama"])
def test_a_saved_config_means_the_same(name: str) -> None:
    translated, repository = translate(v5_config(name), Path("config.json")), v4_config(name)
    assert {key: translated.get(key) for key in ("rope_theta", "rope_scaling")} == {
        key: repository.get(key) for key in ("rope_theta", "rope_scaling")
    }


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["longrope", "su", "dynamic"])
@pytest.mark.parametrize("model_type", ["phi3", "phimoe"])
def test_factors_that_follow_the_length_are_refused(key: str, kind: str, model_type: str) -> None:
    rope = {key: {"type": kind}}
    for config in (rope, {"text_config": rope}, {key: {"full_attention": {"rope_type": kind}}}):
        with pytest.raises(UnsupportedModelError, match=r"optimum freezes .* wrong past 64 tokens"):
            translate({"model_type": model_type, "original_max_position_embeddings": 64, **config}, Path("config.json"))


@pytest.mark.parametrize(
    "config",
    [
        {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500000.0}}},
    ],
)
def test_a_rope_without_a_form_in_transformers_4_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="is transformers 5's; optimum's transformers 4 skips it"):
        translate(config, Path("config.json"))


def test_the_checkpoint_is_linked_and_not_changed(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    write_json(folder / "config.json", v5_config("llama"))
    before = (folder / "config.json").read_bytes()
    (tmp_path / "linked").mkdir()
    link_for_transformers_4(folder, tmp_path / "linked")
    assert {path.name for path in (tmp_path / "linked").iterdir()} == {path.name for path in folder.iterdir()}
    assert (tmp_path / "linked" / "model.safetensors").samefile(folder / "model.safetensors")
    assert json.loads((tmp_path / "linked" / "config.json").read_bytes())["rope_theta"] == 500000.0
    assert (folder / "config.json").read_bytes() == before
