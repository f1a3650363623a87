"""Absent and null keys mean what they mean to the model's own configuration class.

For Phi-3 and Llama the classes of the installed transformers are asked. Phi-3-small's class is in its repositories
(`configuration_phi3_small.py` of microsoft/Phi-3-small-8k-instruct), not in transformers: its defaults are listed here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from targets.architecture import Architecture, BlockSparse
from targets.config_json import SMALL_UNUSED_IDS, read_architecture
from targets.config_keys import LLAMA_KEYS, PHI3_KEYS, SMALL_KEYS
from targets.errors import CheckpointError
from targets.layouts import stored_shapes
from tests.support.checkpoints import Tiny
from tests.support.transformers_5 import v5_config

FULL = {"phi3": v5_config("phi3") | {"sliding_window": 100, "head_dim": 32}, "llama": v5_config("llama")}
KEYS = {"phi3": PHI3_KEYS, "llama": LLAMA_KEYS}
# Their absence is refused: without them it is not known which class it is. The rope's keys have tests of their own.
IDENTITY = ("architectures", "model_type")
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
CASES = [
    (family, key)
    for family, keys in KEYS.items()
    for key in [*keys.used, *(key for key in FULL[family] if key in keys.harmless)]
    if key not in (*IDENTITY, *ROPE)
]


@cache
def config_class(family: str) -> Any:
    from transformers import LlamaConfig, Phi3Config

    return {"phi3": Phi3Config, "llama": LlamaConfig}[family]


def facts_of_class(family: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """What transformers' class makes of a config, by the names of `Architecture`; None if it refuses it."""
    try:
        read = config_class(family)(**config)
    except (TypeError, ValueError):
        return None
    except Exception as error:  # the class of huggingface_hub's strict validation is private
        if type(error).__name__.startswith("StrictDataclass"):
            return None
        raise
    head_dim = getattr(read, "head_dim", read.hidden_size // read.num_attention_heads)
    if head_dim is None:
        return None  # Phi3Attention multiplies by it
    return {
        "layer_count": read.num_hidden_layers,
        "hidden_size": read.hidden_size,
        "intermediate_size": read.intermediate_size,
        "head_count": read.num_attention_heads,
        "kv_head_count": read.num_key_value_heads,
        "head_dim": head_dim,
        "vocabulary_size": read.vocab_size,
        "context_length": read.max_position_embeddings,
        "rope_theta": float(read.rope_parameters["rope_theta"]),
        "norm_epsilon": read.rms_norm_eps,
        "tied_embeddings": read.tie_word_embeddings,
        "sliding_window": getattr(read, "sliding_window", None),
    }


def facts_of_ours(config: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
    try:
        read = read_architecture(config)
    except CheckpointError:
        return None
    return {name: getattr(read, name) for name in names}


def names_of_facts() -> list[str]:
    facts = facts_of_class("phi3", FULL["phi3"])
    assert facts is not None
    return list(facts)


@pytest.mark.parametrize(("family", "key"), CASES)
def test_an_absent_key_has_the_classes_default(family: str, key: str) -> None:
    absent = {each: value for each, value in FULL[family].items() if each != key}
    assert facts_of_ours(absent, names_of_facts()) == facts_of_class(family, absent)


@pytest.mark.parametrize(("family", "key"), [case for case in CASES if case[1] in KEYS[case[0]].used])
def test_a_null_key_means_what_it_means_to_the_class(family: str, key: str) -> None:
    null = FULL[family] | {key: None}
    assert facts_of_ours(null, names_of_facts()) == facts_of_class(family, null)


@pytest.mark.parametrize("family", KEYS)
def test_defaults_of_token_ids_are_the_classes(family: str) -> None:
    read = config_class(family)()
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert KEYS[family].used[key] == getattr(read, key)


@pytest.mark.parametrize(
    ("family", "changes"), [("phi3", {}), ("llama", {}), ("phi3", {"head_dim": 128}), ("llama", {"head_dim": 64})]
)
def test_a_config_of_defaults_has_the_shapes_of_transformers_model(family: str, changes: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    architectures = {"phi3": ["Phi3ForCausalLM"], "llama": ["LlamaForCausalLM"]}[family]
    config = {"architectures": architectures, "model_type": family, "num_hidden_layers": 2} | changes
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_class(family)(**config))
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert stored_shapes(read_architecture(config)) == theirs


# configuration_phi3_small.py: the arguments of Phi3SmallConfig.__init__; dummy_token_indices are its tokenizer's.
SMALL_DEFAULTS = Architecture(
    name="Phi3SmallForCausalLM",
    family="phi3small",
    layer_count=32,
    hidden_size=4096,
    intermediate_size=14336,
    head_count=32,
    kv_head_count=8,
    head_dim=128,
    vocabulary_size=100352,
    context_length=8192,
    rope_theta=1e6,
    norm_epsilon=1e-5,
    tied_embeddings=True,
    biased=True,
    gegelu_limit=20.0,
    attention_scale=1 / 128,
    embedding_multiplier=10.0,
    logit_divisor=8.0,
    block_sparse=BlockSparse(block_size=64, local_blocks=16, vertical_stride=8, dense_every=2),
    hidden_token_ids=SMALL_UNUSED_IDS,
)
SMALL = Tiny(family="phi3small").config()


def test_phi_3_small_of_defaults_is_its_classes() -> None:
    assert read_architecture({"architectures": ["Phi3SmallForCausalLM"]}) == SMALL_DEFAULTS


@pytest.mark.parametrize("key", [key for key in SMALL_KEYS.used if key in SMALL and key not in IDENTITY])
def test_an_absent_key_of_phi_3_small_has_its_classes_default(key: str) -> None:
    absent = {each: value for each, value in SMALL.items() if each != key}
    filled = absent | {key: SMALL_KEYS.used[key]}
    if key == "dummy_token_indices":
        filled |= {key: [token for token in SMALL_UNUSED_IDS if token < SMALL["vocab_size"]]}
    if key in ("hidden_size", "num_key_value_heads"):  # 8 key heads need as many query heads
        absent, filled = ({**config, "num_attention_heads": 8} for config in (absent, filled))
    if key == "pad_token_id":
        del filled[key]
    assert read_architecture(absent) == read_architecture(filled)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"dense_attention_every_n_layers": None}, "block_sparse", BlockSparse(16, 2, 3, dense_every=0)),
        ({"mup_embedding_multiplier": None}, "embedding_multiplier", 1.0),
        ({"mup_width_multiplier": None}, "logit_divisor", 1.0),
        ({"mup_use_scaling": False}, "attention_scale", None),
        ({"ff_intermediate_size": None, "ff_dim_multiplier": 4}, "intermediate_size", 256),  # 4 x 21 x 2, to 256
        (
            {"ff_intermediate_size": None, "ff_dim_multiplier": 4, "gegelu_pad_to_256": False},
            "intermediate_size",
            168,
        ),
    ],
)
def test_null_and_other_values_of_phi_3_small(changes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read_architecture(SMALL | changes), field) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": None},
        {"gegelu_limit": None},  # would not be limited at all, as in no released model
        {"mup_attn_multiplier": None},
        {"rope_position_scale": None},
        {"dummy_token_indices": None},
        {"ff_dim_multiplier": 4},  # and ff_intermediate_size: the class refuses both
        {"ff_intermediate_size": None},
    ],
)
def test_what_phi_3_smalls_class_refuses_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="|".join(changes)):
        read_architecture(SMALL | changes)
