"""Every key of `config.json` is used, harmless at its value, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.config_keys import LLAMA_KEYS, PHI3_KEYS, SMALL_KEYS, FamilyKeys
from targets.errors import CheckpointError, UnsupportedModelError
from targets.models import KNOWN_MODELS
from tests.support.checkpoints import Tiny
from tests.support.real_configs import REAL_CONFIGS

FAMILIES = {"phi3": PHI3_KEYS, "llama": LLAMA_KEYS, "phi3small": SMALL_KEYS}
PHI3, LLAMA, SMALL = (Tiny(family=family).config() for family in FAMILIES)


def _without_factors(architecture: Architecture) -> Architecture:
    """Drop what `KNOWN_MODELS` doesn't have, and round the attention factors as it does."""
    rope = architecture.longrope
    if rope is None:
        return architecture
    factors = [round(factor, 6) for factor in (rope.short_attention_factor, rope.long_attention_factor)]
    if architecture.family == "phi3small":
        factors = [factors[1]] * 2
    return replace(architecture, longrope=replace(rope, short=(), long=(), **_named(factors)))


def _named(factors: list[float]) -> dict[str, float]:
    return {"short_attention_factor": factors[0], "long_attention_factor": factors[1]}


@pytest.mark.parametrize("name", REAL_CONFIGS)
def test_released_models_configs_are_read(name: str) -> None:
    read = read_architecture(REAL_CONFIGS[name])
    known = name.partition(",")[0]
    if known in KNOWN_MODELS:
        assert _without_factors(read) == _without_factors(KNOWN_MODELS[known])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_key_is_both_used_and_harmless_and_each_has_a_reason(family: str) -> None:
    keys: FamilyKeys = FAMILIES[family]
    assert keys.used.keys().isdisjoint(keys.harmless)
    assert all(len(each.reason) > 10 for each in keys.harmless.values())


@pytest.mark.parametrize("config", [PHI3, LLAMA, SMALL], ids=FAMILIES)
@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("qk_layernorm", True, "remove it if the model computes the same without it"),
        ("num_local_experts", 16, "remove it if"),
        ("_new_switch", 1, "remove it if"),
        ("slidng_window", 64, "did you mean 'sliding_window'"),
        ("max_position_embedding", 64, "did you mean 'max_position_embeddings'"),
        ("text_config", {"hidden_size": 64}, "remove it if"),
    ],
)
def test_an_unknown_key_is_refused_by_name(config: dict[str, Any], key: str, value: object, hint: str) -> None:
    if config is SMALL and key == "slidng_window":
        hint = "remove it if"  # Phi-3-small has no window
    with pytest.raises(UnsupportedModelError, match=rf"config\.json: {key} is not a known key of ") as refused:
        read_architecture(config | {key: value})
    assert hint in refused.value.fix


HARMLESS = [
    ("pretraining_tp", 2, LLAMA),
    ("attention_dropout", 0.1, PHI3),
    ("use_cache", False, PHI3),
    ("pruned_heads", {}, PHI3),
    ("is_decoder", True, LLAMA),
    ("add_cross_attention", False, PHI3),
    ("_attn_implementation_autoset", True, PHI3),
    ("temperature", 0.7, PHI3),
    ("id2label", {"0": "LABEL_0"}, PHI3),
    ("layer_types", ["full_attention"] * 2, PHI3),
    ("layer_types", ["sliding_attention"] * 2, Tiny(window=64).config()),
    ("layer_types", ["full_attention"] * 2, LLAMA),
    ("layer_types", None, PHI3),
    ("sliding_window", 512, LLAMA),
    ("quantization_config", None, PHI3),
    ("dtype", "float16", SMALL),
    ("reorder_and_upcast_attn", False, SMALL),
]


@pytest.mark.parametrize(("key", "value", "config"), HARMLESS)
def test_a_harmless_key_changes_nothing(key: str, value: object, config: dict[str, Any]) -> None:
    assert read_architecture(config | {key: value}) == read_architecture(config)


@pytest.mark.parametrize(
    ("key", "value", "config", "message"),
    [
        ("pruned_heads", {"0": [1]}, PHI3, r"pruned_heads \{.*\} is not supported; \{\} or null is"),
        ("add_cross_attention", True, PHI3, "add_cross_attention true is not supported"),
        ("is_encoder_decoder", True, LLAMA, "is_encoder_decoder true is not supported"),
        ("is_causal", False, PHI3, "is_causal false is not supported; true is"),
        ("attention_bias", True, LLAMA, "attention_bias true is not supported"),
        ("attention_bias", 0, PHI3, "attention_bias 0 is not supported; false is"),
        ("mlp_bias", True, PHI3, "mlp_bias true is not supported"),
        ("lm_head_bias", True, PHI3, "lm_head_bias true is not supported"),
        ("full_attn_mod", 2, PHI3, "full_attn_mod 2 is not supported; 1 is"),
        ("rope_interleaved", True, LLAMA, "rope_interleaved true is not supported; false is"),
        ("reorder_and_upcast_attn", True, SMALL, "reorder_and_upcast_attn true is not supported"),
        ("dtype", "float8_e4m3fn", PHI3, 'dtype "float8_e4m3fn" is not supported'),
        ("torch_dtype", "float64", LLAMA, 'torch_dtype "float64" is not supported'),
        ("use_cache", {"inner": 1}, PHI3, "use_cache .* is not supported; one that is not a table is"),
        ("per_layer_config", {"0": {"head_dim": 8}}, PHI3, "per_layer_config .* is not supported; null is"),
        ("transformers_weights", "other.safetensors", PHI3, "transformers_weights .* is not supported; null is"),
        ("configuration_files", ["config.4.0.0.json"], PHI3, "configuration_files: the config is in another file"),
        ("quantization_config", {"bits": 4}, PHI3, "quantization_config: the weights are quantized already"),
        ("quantization", {"bits": 4, "group_size": 64}, PHI3, "quantization: the weights are quantized already"),
        ("layer_types", ["full_attention", "sliding_attention"], PHI3, "layer_types must have 2 times 'full_att"),
        ("layer_types", ["full_attention"] * 2, Tiny(window=64).config(), "layer_types must have 2 times 'sliding"),
        ("layer_types", ["full_attention"], PHI3, "layer_types must have 2 times 'full_attention'"),
        ("sliding_window", 64, LLAMA, "sliding_window 64 is not supported for Llama"),
        ("task_specific_params", {"text-generation": {}}, PHI3, "task_specific_params .* is not supported"),
    ],
)
def test_a_key_is_harmless_only_at_some_values(key: str, value: object, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as refused:
        read_architecture(config | {key: value})
    assert refused.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', but architectures is"),
        ({"architectures": ["Phi3ForCausalLM", "LlamaForCausalLM"]}, "architectures names several kinds of model"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, not 'false'"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false, not None"),
        ({"head_dim": None}, "head_dim must be a positive whole number, not None"),
        ({"original_max_position_embeddings": None}, "original_max_position_embeddings must be a positive whole"),
    ],
)
def test_what_transformers_would_read_otherwise_or_not_at_all_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_architecture(PHI3 | changes)


@pytest.mark.parametrize(
    ("name", "what", "advice"),
    [
        ("MistralForCausalLM", "a Mistral model", "phipack export"),
        ("PhiForCausalLM", "Phi-2", "phipack export"),
        ("Phi3VForCausalLM", "Phi-3-vision", "for text alone use"),
        ("PhiMoEForCausalLM", "Phi-3.5-MoE", "phipack export"),
        ("PhimoeForCausalLM", "Phi-3.5-MoE", "phipack export"),
        ("Phi4MMForCausalLM", "Phi-4-multimodal", "for text alone use"),
        ("Qwen2ForCausalLM", "a Qwen model", "phipack export"),
        ("Gemma3ForCausalLM", "a Gemma model", "phipack export"),
        ("Phi3Model", "the decoder without its head", "Phi3ForCausalLM"),
        ("LlamaForSequenceClassification", "a classifier of texts", "LlamaForCausalLM"),
        ("PeftModelForCausalLM", "an adapter", "merge_and_unload"),
    ],
)
def test_other_models_are_named_as_what_they_are(name: str, what: str, advice: str) -> None:
    with pytest.raises(UnsupportedModelError, match="is not supported") as refused:
        read_architecture({"architectures": [name]})
    assert what in refused.value.problem
    assert advice in refused.value.fix
    assert "did you mean" not in refused.value.fix


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Phi3ForCausalML", "did you mean 'Phi3ForCausalLM'"),
        ("phi3forcausallm", "did you mean 'Phi3ForCausalLM'"),
        ("Phi7ForCausalLM", "phipack build takes Phi3ForCausalLM"),
        ("BertModel", "phipack build takes Phi3ForCausalLM"),
    ],
)
def test_only_a_misspelled_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        read_architecture({"architectures": [name]})
    assert refused.value.fix.startswith(hint)


@pytest.mark.parametrize(("family", "name"), [("phi3", "Phi3"), ("llama", "Llama"), ("phi3small", "Phi3Small")])
def test_without_architectures_the_fix_goes_by_the_type(family: str, name: str) -> None:
    with pytest.raises(CheckpointError, match="'architectures' is missing") as refused:
        read_architecture({"model_type": family})
    assert f'"{name}ForCausalLM"' in refused.value.fix
