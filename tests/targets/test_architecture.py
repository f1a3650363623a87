"""`config.json` read into an `Architecture`: the families' shapes, and configs that are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.errors import CheckpointError, UnsupportedModelError
from targets.models import KNOWN_MODELS
from tests.support.checkpoints import Tiny
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


def test_config_of_mini_matches_known_model() -> None:
    assert read_architecture(MINI) == KNOWN_MODELS["phi-3-mini-4k-instruct"]


def test_fused_rows_are_query_key_value_and_gate_up() -> None:
    medium = KNOWN_MODELS["phi-3-medium-4k-instruct"]
    shapes = medium.tensor_shapes()
    assert shapes["model.layers.39.self_attn.qkv_proj.weight"] == (40 * 128 + 2 * 10 * 128, 5120)
    assert shapes["model.layers.0.mlp.gate_up_proj.weight"] == (2 * 17920, 5120)
    assert shapes["lm_head.weight"] == (32064, 5120)
    assert len(shapes) == 40 * 6 + 3


def test_tied_head_is_the_embedding() -> None:
    tied = read_architecture(MINI | {"tie_word_embeddings": True})
    assert tied.head_tensor == "model.embed_tokens.weight"
    assert "lm_head.weight" not in tied.tensor_shapes()
    assert tied.parameter_count == 3_821_079_552 - 32064 * 3072


@given(architectures())
def test_parameter_count_follows_from_shape(model: Architecture) -> None:
    hidden, inner = model.hidden_size, model.intermediate_size
    layer = hidden * (2 * model.query_width + 2 * model.kv_width + 3 * inner + 2)
    head = 0 if model.tied_embeddings else model.vocabulary_size * hidden
    embedding = model.vocabulary_size * hidden
    assert model.parameter_count == model.layer_count * layer + embedding + head + hidden


def test_missing_config_keys_have_transformers_defaults() -> None:
    bare = read_architecture(
        {key: MINI[key] for key in MINI if key not in ("num_key_value_heads", "rope_theta", "rms_norm_eps")}
    )
    assert (bare.kv_head_count, bare.rope_theta, bare.norm_epsilon) == (32, 10000.0, 1e-5)
    assert read_architecture(MINI | {"sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    ("window", "effective"), [(None, None), (2047, 2047), (4095, 4095), (4096, None), (9999, None)]
)
def test_window_as_long_as_the_context_has_no_effect(window: int | None, effective: int | None) -> None:
    assert read_architecture(MINI | {"sliding_window": window}).effective_window == effective


@pytest.mark.parametrize("kind", [{"type": "longrope"}, {"type": "su"}, {"rope_type": "longrope"}])
def test_longrope_is_read_under_each_of_its_names(kind: dict[str, str]) -> None:
    scaling = {"short_factor": FACTORS, "long_factor": FACTORS[::-1], **kind}
    rope = read_architecture(LONG | {"rope_scaling": scaling}).longrope
    assert rope is not None
    assert (rope.short, rope.long) == (tuple(FACTORS), tuple(FACTORS[::-1]))
    assert rope.original_context == 4096
    assert rope.long_attention_factor == pytest.approx(1.190238, abs=1e-6)


def test_attention_factor_is_1_if_longrope_does_not_extend_the_context() -> None:
    rope = read_architecture(LONG | {"max_position_embeddings": 4096}).longrope
    assert rope is not None
    assert rope.long_attention_factor == 1.0


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"architectures": ["PhimoeForCausalLM"]}, UnsupportedModelError, "'PhimoeForCausalLM' is not supported"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.5, "hidden_size": 960}, CheckpointError, "0.5 of heads of 30 elements: an even"),
        ({"partial_rotary_factor": 1.5}, CheckpointError, "1.5 of heads of 96 elements: an even number"),
        ({"partial_rotary_factor": 0.01}, CheckpointError, "elements, from 2 to 96, must be rotated"),
        ({"partial_rotary_factor": None}, CheckpointError, "partial_rotary_factor must be a positive number"),
        ({"hidden_size": 992}, CheckpointError, "partial_rotary_factor 1 of heads of 31 elements"),
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
def test_config_unlike_phi_3_is_refused_with_its_key(
    changes: dict[str, Any], kind: type[CheckpointError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        read_architecture(MINI | changes)


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
def test_longrope_factors_of_wrong_length_or_type_are_refused(factors: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_architecture(LONG | {"rope_scaling": LONG["rope_scaling"] | factors})


FUZZED = [
    Tiny(family=family, original_context=edge).config()
    for family, edge in (("phi3", None), ("phi3", 64), ("llama", None), ("phi3small", None), ("phi3small", 64))
]


@given(st.sampled_from(FUZZED), st.data())
def test_any_config_value_is_read_or_raises_checkpoint_error(config: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(config)))
    changed = config | {key: data.draw(junk)}
    problem = "config.json: "
    try:
        read_architecture(changed)
    except CheckpointError as error:
        problem = error.problem
    assert problem.startswith("config.json: ")


# As in Phi-3-small-128k's repository, factor lists aside.
SMALL = {
    "architectures": ["Phi3SmallForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "ff_intermediate_size": 14336,
    "vocab_size": 100352,
    "max_position_embeddings": 8192,
    "hidden_act": "gegelu",
    "gegelu_limit": 20.0,
    "rope_embedding_base": 1000000,
    "rope_scaling": None,
    "layer_norm_epsilon": 1e-5,
    "mup_use_scaling": True,
    "mup_attn_multiplier": 1.0,
    "mup_embedding_multiplier": 10.0,
    "mup_width_multiplier": 8.0,
    "blocksparse_block_size": 64,
    "blocksparse_num_local_blocks": 16,
    "blocksparse_vert_stride": 8,
    "dense_attention_every_n_layers": 2,
}


def test_config_of_phi_3_small_matches_known_model() -> None:
    assert read_architecture(SMALL) == KNOWN_MODELS["phi-3-small-8k-instruct"]


def test_phi_3_smalls_sparse_layers_alternate() -> None:
    sparse = KNOWN_MODELS["phi-3-small-8k-instruct"].block_sparse
    assert sparse is not None
    assert [sparse.is_sparse(layer) for layer in range(4)] == [True, False, True, False]
    assert sparse.dense_up_to == 1024


def test_phi_3_smalls_longrope_has_short_and_long_attention_factors() -> None:
    scaling = {"type": "su", "original_max_position_embeddings": 8192, "short_mscale": 1.0, "long_mscale": 1.19}
    factors = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
    config = SMALL | {"max_position_embeddings": 131072, "rope_scaling": scaling | factors}
    rope = read_architecture(config).longrope
    assert rope is not None
    assert (rope.original_context, rope.short_attention_factor, rope.long_attention_factor) == (8192, 1.0, 1.19)


def test_missing_llama_keys_have_llama_defaults() -> None:
    bare = read_architecture(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "intermediate_size": 11008,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        }
    )
    assert (bare.family, bare.norm_epsilon, bare.sliding_window, bare.longrope) == ("llama", 1e-6, None, None)
    assert bare.parameter_count == 6_738_415_616  # Llama-2-7B's


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not supported; this family has 'gegelu'"),
        ({"blocksparse_homo_head_pattern": True}, "blocksparse_homo_head_pattern is not supported"),
        ({"rope_position_scale": 2.0}, "rope_position_scale 2.0 is not supported"),
        (
            {"dense_attention_every_n_layers": -1},
            "dense_attention_every_n_layers must be a whole number from 0",
        ),
        ({"dummy_token_indices": [100352]}, "dummy_token_indices must list ids of the vocabulary of 100352"),
        ({"quantization_config": {"bits": 4}}, "quantized already"),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0] * 63, "long_factor": [1.0] * 64}},
            "rope_scaling.short_factor must list 64 numbers, not 63",
        ),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0] * 64, "long_factor": [1.0] * 64, "long_mscale": 0}},
            "rope_scaling.long_mscale must be a positive number, not 0",
        ),
    ],
)
def test_invalid_phi_3_small_config_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_architecture(SMALL | changes)


# As in Phi-4-mini's repository, factor lists aside.
PHI_4_MINI: dict[str, Any] = LONG | {
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "vocab_size": 200064,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "embd_pdrop": 0.0,
    "attention_dropout": 0.0,
}


def test_config_of_phi_4_mini_matches_known_model() -> None:
    read, known = read_architecture(PHI_4_MINI), KNOWN_MODELS["phi-4-mini-instruct"]
    assert read.longrope is not None
    assert known.longrope is not None
    assert replace(read, longrope=None) == replace(known, longrope=None)
    assert (read.head_dim, read.rotary_dim, read.longrope.original_context) == (
        128,
        96,
        known.longrope.original_context,
    )
    assert read.longrope.long_attention_factor == pytest.approx(known.longrope.long_attention_factor, abs=1e-6)


def test_config_of_phi_4_matches_known_model() -> None:
    # As in its repository.
    config = MINI | {
        "hidden_size": 5120,
        "intermediate_size": 17920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "vocab_size": 100352,
        "max_position_embeddings": 16384,
        "original_max_position_embeddings": 16384,
        "rope_theta": 250000,
        "sliding_window": None,
    }
    assert read_architecture(config) == KNOWN_MODELS["phi-4"]


def test_llama_rope_scaling_is_refused() -> None:
    llama = MINI | {"architectures": ["LlamaForCausalLM"], "sliding_window": None}
    config = llama | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    with pytest.raises(UnsupportedModelError, match="rope_scaling type 'llama3' is not supported; Llama has 'default'"):
        read_architecture(config)
