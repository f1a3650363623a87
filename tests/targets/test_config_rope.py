"""The rope in `config.json`: the forms of transformers 4 and 5 are read alike, and contradictions are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.config_json import read_architecture
from targets.errors import CheckpointError, UnsupportedModelError
from tests.support.transformers_5 import SHAPES, v4_config, v5_config

FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 64, "rope_theta": 25000.0, **FACTORS}
PLAIN = {"rope_type": "default", "rope_theta": 25000.0}


def phi3(*, original: int | None = 64, **keys: Any) -> dict[str, Any]:
    """A tiny Phi-3 in transformers 5's form, without its rope."""
    config = {key: value for key, value in v5_config("phi3").items() if key != "rope_parameters"}
    if original is None:
        return {key: value for key, value in config.items() if key != "original_max_position_embeddings"} | keys
    return config | {"original_max_position_embeddings": original} | keys


@pytest.mark.parametrize("name", SHAPES)
def test_config_saved_by_transformers_5_is_read_like_the_one_it_loaded(name: str) -> None:
    saved = v5_config(name)
    assert saved.keys().isdisjoint({"rope_theta", "rope_scaling", "torch_dtype"})
    assert read_architecture(saved) == read_architecture(v4_config(name))


@pytest.mark.parametrize("keys", [{"rope_parameters": LONG}, {"rope_scaling": LONG}])
@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, math.sqrt(1 + math.log(8) / math.log(64))),
        # As transformers 5.24's Phi3RotaryEmbedding.attention_scaling of the same config.
        ({"factor": 4.0}, 1.1547005383792517),
        ({"factor": 1}, 1.0),
        ({"factor": 4.0, "attention_factor": 1.5}, 1.5),
        ({"factor": None, "attention_factor": None}, math.sqrt(1 + math.log(8) / math.log(64))),
    ],
)
def test_longropes_attention_factor(keys: dict[str, Any], changes: dict[str, Any], factor: float) -> None:
    rope = read_architecture(phi3(**{key: value | changes for key, value in keys.items()})).longrope
    assert rope is not None
    assert (rope.short_attention_factor, rope.long_attention_factor) == pytest.approx((factor, factor))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 7e5},
        {"rope_theta": 7e5, "rope_parameters": None},
        {"rope_theta": 7e5, "rope_parameters": {}},
        {"rope_theta": 7e5, "rope_parameters": {"rope_type": "default"}},
        {"rope_theta": 7e5, "rope_parameters": {"rope_type": "default", "rope_theta": 7e5}},
        {"rope_theta": 700000, "rope_scaling": None, "rope_parameters": {"type": "default", "rope_theta": 7e5}},
        {"rope_parameters": {"rope_theta": 7e5}},
        {"rope_scaling": {"rope_theta": 7e5, "rope_type": "default", "partial_rotary_factor": 1}},
    ],
)
@pytest.mark.parametrize("architecture", ["Phi3ForCausalLM", "LlamaForCausalLM"])
def test_base_is_read_from_each_place_where_it_may_be(rope: dict[str, Any], architecture: str) -> None:
    model_type = {"Phi3ForCausalLM": "phi3", "LlamaForCausalLM": "llama"}[architecture]
    read = read_architecture(phi3(architectures=[architecture], model_type=model_type, **rope))
    assert (read.rope_theta, read.longrope) == (7e5, None)


@pytest.mark.parametrize(
    "keys",
    [
        {"partial_rotary_factor": 0.5},
        {"partial_rotary_factor": 0.5, "rope_parameters": PLAIN},
        {"partial_rotary_factor": 0.5, "rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}},
        {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}},
        {
            "partial_rotary_factor": 0.5,
            "rope_scaling": PLAIN | {"partial_rotary_factor": 0.5},
            "rope_parameters": PLAIN,
        },
        {"rope_scaling": PLAIN | {"partial_rotary_factor": 0.5}, "rope_parameters": {}},
        {"rope_scaling": None, "rope_parameters": {"partial_rotary_factor": 0.5}},
    ],
)
def test_share_of_a_head_that_is_rotated_is_read_from_each_place_where_it_may_be(keys: dict[str, Any]) -> None:
    read = read_architecture(phi3(**keys))
    assert (read.head_dim, read.rotary_dim, read.partial_rotary_dim) == (16, 8, 8)


def test_longropes_factors_are_for_the_rotated_part_of_a_head() -> None:
    half = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    for config in (
        phi3(partial_rotary_factor=0.5, rope_parameters=LONG | half),
        phi3(rope_parameters=LONG | half | {"partial_rotary_factor": 0.5}),
    ):
        read = read_architecture(config)
        assert read.longrope is not None
        assert (read.rotary_dim, len(read.longrope.short)) == (8, 4)
    with pytest.raises(CheckpointError, match=r"rope_parameters\.short_factor must list 4 numbers, not 8"):
        read_architecture(phi3(partial_rotary_factor=0.5, rope_parameters=LONG))


@pytest.mark.parametrize("keys", [{"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}])
@pytest.mark.parametrize(("name", "family"), [("llama", "Llama"), ("phi3small", "Phi-3-small")])
def test_families_that_rotate_whole_heads_refuse_a_share(keys: dict[str, Any], name: str, family: str) -> None:
    config = {key: value for key, value in v5_config(name).items() if key != "rope_parameters"}
    with pytest.raises(UnsupportedModelError, match=rf"partial_rotary_factor.*{family}"):
        read_architecture(config | keys)


def test_config_without_rope_has_the_default() -> None:
    assert read_architecture(phi3()).rope_theta == 10000.0


@pytest.mark.parametrize("kind", [{"rope_type": "su"}, {"rope_type": "longrope", "type": "su"}, {"type": "longrope"}])
def test_longrope_is_read_under_each_of_its_names(kind: dict[str, str]) -> None:
    nameless = {key: value for key, value in LONG.items() if key != "rope_type"}
    expected = read_architecture(phi3(rope_parameters=LONG))
    assert expected.longrope is not None
    assert read_architecture(phi3(rope_parameters=nameless | kind)) == expected


def test_two_objects_with_the_same_rope_are_accepted() -> None:
    both = phi3(rope_theta=25000.0, rope_scaling={"type": "longrope", **FACTORS}, rope_parameters=LONG)
    assert read_architecture(both) == read_architecture(phi3(rope_parameters=LONG))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"rope_theta": 10000.0, "rope_parameters": PLAIN},
            r"rope_theta 10000.0 and rope_parameters.rope_theta 25000.0 contradict",
        ),
        (
            {"rope_scaling": {"rope_theta": 1e4}, "rope_parameters": PLAIN},
            r"rope_scaling.rope_theta 10000.0 and rope_parameters.rope_theta 25000.0 contradict",
        ),
        # Written by transformers 4 after it loaded a config that 5 had saved.
        (
            {"rope_theta": 25000.0, "rope_scaling": None, "rope_parameters": LONG},
            "rope_scaling and rope_parameters contradict each other: one has longrope, the other has none",
        ),
        (
            {"rope_scaling": {"type": "longrope", **FACTORS}, "rope_parameters": PLAIN},
            "rope_scaling and rope_parameters contradict each other: one has longrope, the other has none",
        ),
        (
            {"rope_scaling": LONG, "rope_parameters": LONG | {"long_factor": [3.0] * 8}},
            "rope_scaling and rope_parameters contradict each other: long_factor",
        ),
        (
            {"rope_parameters": LONG | {"type": "default"}},
            "rope_parameters.rope_type 'longrope' and rope_parameters.type 'default' contradict",
        ),
        (
            {"rope_parameters": LONG | {"original_max_position_embeddings": 65}},
            "original_max_position_embeddings 64 and rope_parameters.original_max_position_embeddings 65 contradict",
        ),
        # transformers 4 uses the one at the top level, 5 the one within.
        (
            {"partial_rotary_factor": 0.5, "rope_parameters": PLAIN | {"partial_rotary_factor": 0.75}},
            "partial_rotary_factor 0.5 and rope_parameters.partial_rotary_factor 0.75 contradict",
        ),
        # Written by transformers 4 after it loaded a config that 5 had saved.
        (
            {"partial_rotary_factor": 1.0, "rope_parameters": PLAIN | {"partial_rotary_factor": 0.75}},
            "partial_rotary_factor 1.0 and rope_parameters.partial_rotary_factor 0.75 contradict",
        ),
        (
            {
                "rope_scaling": {"partial_rotary_factor": 1.0},
                "rope_parameters": PLAIN | {"partial_rotary_factor": 0.75},
            },
            "rope_scaling.partial_rotary_factor 1.0 and rope_parameters.partial_rotary_factor 0.75 contradict",
        ),
        # Of two objects transformers 5.24 reads rope_scaling, and the default of what is missing from it.
        (
            {"rope_scaling": PLAIN, "rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}},
            "rope_scaling without partial_rotary_factor 1.0 and rope_parameters.partial_rotary_factor 0.5 contradict",
        ),
        (
            {"rope_scaling": {"rope_type": "default"}, "rope_parameters": PLAIN},
            "rope_scaling without rope_theta 10000.0 and rope_parameters.rope_theta 25000.0 contradict",
        ),
        # transformers 5.24 uses 4096, its class's own default, and ignores the 64 within.
        (
            {"original": None, "rope_parameters": LONG},
            "original_max_position_embeddings is missing, so transformers uses 4096, but rope_param.* is 64",
        ),
    ],
)
def test_contradictions_are_refused_with_their_keys(rope: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as refused:
        read_architecture(phi3(**rope))
    assert refused.value.fix


def test_default_original_context_within_the_object_is_enough() -> None:
    rope = LONG | {"original_max_position_embeddings": 4096}
    read = read_architecture(phi3(original=None, max_position_embeddings=131072, rope_parameters=rope))
    assert read.longrope is not None
    assert read.longrope.original_context == 4096


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"full_attention": PLAIN, "sliding_attention": PLAIN}, r"\.full_attention: a separate rope for a type of"),
        (PLAIN | {"full_attention": None}, r"\.full_attention is not known for Phi-3's rope of type 'default'"),
        ({"rope_type": "yarn", "factor": 4.0}, " type 'yarn' is not supported; Phi-3 has 'default' and 'longrope'"),
        ({"rope_type": ["longrope"]}, r" type \['longrope'\] is not supported"),
        ({"rope_type": "linear", "factor": 4.0}, " type 'linear' is not supported"),
        (PLAIN | {"factor": 4.0}, r"\.factor is not known for Phi-3's rope of type 'default'"),
        (PLAIN | FACTORS, r"\.short_factor is not known for Phi-3's rope of type 'default'"),
        (LONG | {"long_mscale": 1.2}, r"\.long_mscale is not known for Phi-3's rope of type 'longrope'"),
        (LONG | {"short_mscale": 1.2}, r"\.short_mscale is not known for Phi-3's rope of type 'longrope'"),
        (LONG | {"beta_fast": 32.0}, r"\.beta_fast is not known for Phi-3's rope of type 'longrope'"),
    ],
)
def test_rope_that_phi_3_does_not_have_is_refused_with_its_key(place: str, rope: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=place + message):
        read_architecture(phi3(**{place: rope}))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ("default", "rope_parameters must be null or an object, not 'default'"),
        ({"rope_theta": None}, "rope_parameters.rope_theta must be a positive number, not None"),
        (PLAIN | {"partial_rotary_factor": "1"}, "rope_parameters.partial_rotary_factor must be a positive number"),
        (LONG | {"factor": 0}, "rope_parameters.factor must be a positive number, not 0"),
        (LONG | {"long_factor": [1.0] * 7}, "rope_parameters.long_factor must list 8 numbers, not 7"),
    ],
)
def test_invalid_rope_values_are_refused_with_their_keys(rope: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_architecture(phi3(rope_parameters=rope))


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("rope", [{"rope_type": "llama3", "factor": 8.0}, LONG])
def test_llama_with_another_rope_than_the_default_is_refused(place: str, rope: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{place} type '.*' is not supported; Llama has 'default'"):
        read_architecture(v5_config("llama") | {"rope_parameters": None, place: rope})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_parameters": {"rope_theta": 500000.0}},
            "rope_embedding_base 1000000.0 and rope_parameters.rope_theta 500000.0 contradict",
        ),
        ({"rope_parameters": LONG | {"factor": 8.0}}, "rope_parameters.factor is not known for Phi-3-small's rope"),
    ],
)
@pytest.mark.parametrize("stated", [True, False])
def test_contradicting_base_of_phi_3_small_is_refused(changes: dict[str, Any], message: str, stated: bool) -> None:
    config = v5_config("phi3small")
    if not stated:
        del config["rope_embedding_base"]
    with pytest.raises(CheckpointError, match=message):
        read_architecture(config | changes)


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.floats())


@given(st.sampled_from(sorted(SHAPES)), st.sampled_from(["rope_parameters", "rope_scaling"]), st.data())
def test_any_rope_value_is_read_or_raises_checkpoint_error(name: str, place: str, data: st.DataObject) -> None:
    config = v5_config(name)
    rope = config["rope_parameters"]
    key = data.draw(st.sampled_from(sorted(rope)) | st.text(max_size=8))
    problem = "config.json: "
    try:
        read_architecture(config | {place: rope | {key: data.draw(anything | st.dictionaries(st.text(), anything))}})
    except CheckpointError as error:
        problem = error.problem
    assert problem.startswith("config.json: ")
