"""`config.json` read into an `Architecture`: the family's facts, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.architecture import Architecture
from targets.errors import CheckpointError, UnsupportedModelError
from targets.models import KNOWN_MODELS
from tests.checkpoints import Tiny
from tests.targets.architectures import architectures

MINI: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-05,
    "hidden_act": "silu",
    "attention_bias": False,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
}
FACTORS = [1.0 + 0.1 * number for number in range(48)]
LONG = MINI | {
    "max_position_embeddings": 131072,
    "sliding_window": 262144,
    "rope_scaling": {"type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS[::-1]},
}
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def test_the_config_of_mini_is_the_known_model() -> None:
    assert Architecture.from_config(MINI) == KNOWN_MODELS["phi-3-mini-4k-instruct"]


def test_fused_rows_are_query_key_value_and_gate_up() -> None:
    medium = KNOWN_MODELS["phi-3-medium-4k-instruct"]
    shapes = medium.tensor_shapes()
    assert shapes["model.layers.39.self_attn.qkv_proj.weight"] == (40 * 128 + 2 * 10 * 128, 5120)
    assert shapes["model.layers.0.mlp.gate_up_proj.weight"] == (2 * 17920, 5120)
    assert shapes["lm_head.weight"] == (32064, 5120)
    assert len(shapes) == 40 * 6 + 3


def test_a_tied_head_is_the_embedding() -> None:
    tied = Architecture.from_config(MINI | {"tie_word_embeddings": True})
    assert tied.head_tensor == "model.embed_tokens.weight"
    assert "lm_head.weight" not in tied.tensor_shapes()
    assert tied.parameter_count == 3_821_079_552 - 32064 * 3072


@given(architectures())
def test_the_count_follows_from_the_shape(model: Architecture) -> None:
    hidden, inner = model.hidden_size, model.intermediate_size
    layer = hidden * (2 * model.query_width + 2 * model.kv_width + 3 * inner + 2)
    head = 0 if model.tied_embeddings else model.vocabulary_size * hidden
    embedding = model.vocabulary_size * hidden
    assert model.parameter_count == model.layer_count * layer + embedding + head + hidden


def test_what_a_config_leaves_out_has_transformers_defaults() -> None:
    bare = Architecture.from_config(
        {key: MINI[key] for key in MINI if key not in ("num_key_value_heads", "rope_theta", "rms_norm_eps")}
    )
    assert (bare.kv_head_count, bare.rope_theta, bare.norm_epsilon) == (32, 10000.0, 1e-5)
    assert Architecture.from_config(MINI | {"sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    ("window", "effective"), [(None, None), (2047, 2047), (4095, 4095), (4096, None), (9999, None)]
)
def test_a_window_as_long_as_the_context_is_none(window: int | None, effective: int | None) -> None:
    assert Architecture.from_config(MINI | {"sliding_window": window}).effective_window == effective


@pytest.mark.parametrize("kind", [{"type": "longrope"}, {"type": "su"}, {"rope_type": "longrope"}])
def test_longrope_by_each_of_its_names(kind: dict[str, str]) -> None:
    scaling = {"short_factor": FACTORS, "long_factor": FACTORS[::-1], **kind}
    rope = Architecture.from_config(LONG | {"rope_scaling": scaling}).longrope
    assert rope is not None
    assert (rope.short, rope.long) == (tuple(FACTORS), tuple(FACTORS[::-1]))
    assert rope.original_context == 4096
    assert rope.long_attention_factor == pytest.approx(1.190238, abs=1e-6)


def test_a_context_that_longrope_does_not_lengthen_is_not_scaled() -> None:
    rope = Architecture.from_config(LONG | {"max_position_embeddings": 4096}).longrope
    assert rope is not None
    assert rope.long_attention_factor == 1.0


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"architectures": ["Phi3SmallForCausalLM"]}, UnsupportedModelError, "'Phi3SmallForCausalLM' is not supported"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.75}, UnsupportedModelError, "partial_rotary_factor"),
        ({"attention_bias": True}, UnsupportedModelError, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, UnsupportedModelError, "quantization_config"),
        ({"rope_scaling": {"type": "yarn"}}, UnsupportedModelError, "rope_scaling type 'yarn'"),
        ({"rope_scaling": "longrope"}, CheckpointError, "rope_scaling must be null or an object"),
        ({"hidden_size": 3073}, CheckpointError, "don't divide one another"),
        ({"num_key_value_heads": 5}, CheckpointError, "don't divide one another"),
        ({"vocab_size": 0}, CheckpointError, "vocab_size must be a positive whole number, not 0"),
        ({"vocab_size": True}, CheckpointError, "vocab_size must be a positive whole number, not True"),
        ({"vocab_size": 32064.0}, CheckpointError, "vocab_size must be a positive whole number"),
        ({"rope_theta": 10**400}, CheckpointError, "rope_theta must be a positive number"),
        ({"rms_norm_eps": math.nan}, CheckpointError, "rms_norm_eps must be a positive number, not nan"),
    ],
)
def test_what_is_not_phi_3_is_refused_by_its_key(
    changes: dict[str, Any], kind: type[CheckpointError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Architecture.from_config(MINI | changes)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"long_factor": FACTORS[1:]}, "rope_scaling.long_factor must list 48 numbers, not 47"),
        ({"short_factor": None}, "rope_scaling.short_factor must list 48 numbers, not None"),
        (
            {"short_factor": [0.0, *FACTORS[1:]]},
            "rope_scaling.short_factor holds a value that is not a positive number",
        ),
        (
            {"short_factor": ["1", *FACTORS[1:]]},
            "rope_scaling.short_factor holds a value that is not a positive number",
        ),
    ],
)
def test_factors_of_another_length_or_kind_are_refused(factors: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Architecture.from_config(LONG | {"rope_scaling": LONG["rope_scaling"] | factors})


@given(st.sampled_from([Tiny().config(), Tiny(original_context=64).config()]), st.data())
def test_any_value_in_any_key_is_read_or_refused_in_our_words(config: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(config)))
    changed = config | {key: data.draw(junk)}
    problem = "config.json: "
    try:
        Architecture.from_config(changed)
    except CheckpointError as error:
        problem = error.problem
    assert problem.startswith("config.json: ")
