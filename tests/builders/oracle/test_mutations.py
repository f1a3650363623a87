"""Misreadings planted one by one where a checkpoint is read: the oracle must see each, and say where it lies.

Everything else of phipack would agree with itself: the bundle and the float32 reference share what is planted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint, shards
from builders.checkpoint.sources import ShardSource
from builders.oracle import ask_oracle, check_bundle
from builders.tokenizer import Tokenizer
from builders.validation.validate import validate
from registry.bundle.folder import Bundle
from targets.architecture import Architecture, LongRope
from targets.errors import MeasurementError
from targets.recipes import recipe_named
from tests.support.checkpoints import Tiny, random_weights, write_json, write_tiny, write_weights

EDGE, WINDOW = 100, 150
RECIPES = {"phi3": "gguf-f16", "llama": "gguf-f16", "phi3small": "onnx-fp16"}
Patch = pytest.MonkeyPatch
Array = np.ndarray


def write_realistic(folder: Path, family: str) -> Path:
    """A tiny checkpoint whose embedding is as small as a released model's, so that the norm's epsilon counts."""
    shape = {"phi3": {"original_context": EDGE, "window": WINDOW}, "llama": {}, "phi3small": {"original_context": EDGE}}
    tiny = Tiny(family=family, layers=3, **shape[family])  # type: ignore[arg-type]
    write_tiny(folder, tiny)
    weights = random_weights(tiny.config())
    weights["model.embed_tokens.weight"] *= 0.16
    write_weights(folder, weights)
    theta = {} if family == "phi3small" else {"rope_theta": 20000.0}
    write_json(folder / "config.json", tiny.config() | theta)
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Checkpoint, Bundle]]:
    place = tmp_path_factory.mktemp("mutations")
    made = {}
    for family, recipe in RECIPES.items():
        checkpoint = open_checkpoint(write_realistic(place / family, family))
        made[family] = (checkpoint, build(checkpoint, recipe_named(recipe), place / f"{family}-bundle"))
    return made


@dataclass(frozen=True)
class Misreading:
    """`plant` patches the reader, or returns a checkpoint with other facts. `seen`: what the message must name."""

    seen: str
    plant: Callable[[Patch, Checkpoint], Checkpoint | None]
    family: str = "phi3"
    in_bundle: bool = False  # what is planted shows in the bundle only


def facts(**changes: Any) -> Callable[[Patch, Checkpoint], Checkpoint]:
    """Read other facts from the config: a value, or what a function makes of the architecture."""

    def plant(_patch: Patch, checkpoint: Checkpoint) -> Checkpoint:
        own = checkpoint.architecture
        values = {key: value(own) if callable(value) else value for key, value in changes.items()}
        return replace(checkpoint, architecture=replace(own, **values))

    return plant


def rope(**changes: Any) -> Callable[[Patch, Checkpoint], Checkpoint]:
    def changed(own: Architecture) -> LongRope:
        assert own.longrope is not None
        values = {key: value(own.longrope) if callable(value) else value for key, value in changes.items()}
        return replace(own.longrope, **values)

    return facts(longrope=changed)


def tensor(part: str, change: Callable[[Array, Architecture], Array]) -> Callable[[Patch, Checkpoint], None]:
    """Read a tensor whose name ends with `part` in another way."""

    def plant(patch: Patch, checkpoint: Checkpoint) -> None:
        original = ShardSource.tensor

        def misread(self: ShardSource, name: str) -> Array:
            values = original(self, name)
            if not name.endswith(part):
                return values
            return np.ascontiguousarray(change(values, checkpoint.architecture))

        patch.setattr(ShardSource, "tensor", misread)

    return plant


def renamed(change: Callable[[str], str]) -> Callable[[Patch, Checkpoint], None]:
    """Read another tensor than the one that is asked for."""

    def plant(patch: Patch, _checkpoint: Checkpoint) -> None:
        original = ShardSource.tensor
        patch.setattr(ShardSource, "tensor", lambda self, name: original(self, change(name)))

    return plant


def encoded(change: Callable[[list[int], bool], list[int]]) -> Callable[[Patch, Checkpoint], None]:
    def plant(patch: Patch, _checkpoint: Checkpoint) -> None:
        original = Tokenizer.encode

        def misread(self: Tokenizer, text: str, *, add_special_tokens: bool = False) -> list[int]:
            return change(original(self, text, add_special_tokens=add_special_tokens), add_special_tokens)

        patch.setattr(Tokenizer, "encode", misread)

    return plant


def text_read(change: Callable[[str], str]) -> Callable[[Patch, Checkpoint], None]:
    def plant(patch: Patch, _checkpoint: Checkpoint) -> None:
        original = Tokenizer.encode
        patch.setattr(Tokenizer, "encode", lambda self, text, **how: original(self, change(text), **how))

    return plant


def decoded(change: Callable[[str], str]) -> Callable[[Patch, Checkpoint], None]:
    def plant(patch: Patch, _checkpoint: Checkpoint) -> None:
        original = Tokenizer.decode
        patch.setattr(Tokenizer, "decode", lambda self, ids: change(original(self, ids)))

    return plant


def fact_of_checkpoint(name: str, change: Callable[[Any], Any]) -> Callable[[Patch, Checkpoint], None]:
    def plant(patch: Patch, _checkpoint: Checkpoint) -> None:
        original = getattr(Checkpoint, name).fget
        patch.setattr(Checkpoint, name, property(lambda self: change(original(self))))

    return plant


def embedded_one_row_on(patch: Patch, checkpoint: Checkpoint) -> None:
    original, size = ShardSource.rows, checkpoint.architecture.vocabulary_size
    patch.setattr(ShardSource, "rows", lambda self, name, ids: original(self, name, (ids + 1) % size))


def bfloat16_as_float16(patch: Patch, _checkpoint: Checkpoint) -> None:
    def widen(stored: Array, dtype: str, out: Array) -> None:
        out[...] = stored.view(np.float16)

    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2
    patch.setattr(shards, "widen", widen)


def blocks_swapped(rows: Array, first: slice, second: slice) -> Array:
    changed = rows.copy()
    changed[first], changed[second] = rows[second], rows[first]
    return changed


def value_and_key_swapped(rows: Array, own: Architecture) -> Array:
    start, middle = own.query_width, own.query_width + own.kv_width
    return blocks_swapped(rows, slice(start, middle), slice(middle, None))


def heads_reversed(rows: Array, own: Architecture) -> Array:
    queries = rows[: own.query_width].reshape(own.head_count, own.head_dim, -1)[::-1]
    return np.concatenate([queries.reshape(own.query_width, -1), rows[own.query_width :]])


def key_heads_swapped(rows: Array, own: Architecture) -> Array:
    """As if a key head's queries were not neighbours: head i has key i % kv_heads."""
    keys = rows[own.query_width :].reshape(2, own.kv_head_count, own.head_dim, -1)[:, ::-1]
    return np.concatenate([rows[: own.query_width], keys.reshape(2 * own.kv_width, -1)])


def interleaved(rows: Array, own: Architecture) -> Array:
    """As if pairs to be rotated were neighbours, as in Meta's own Llama files."""
    turned = rows[: own.query_width + own.kv_width].reshape(-1, own.head_dim // 2, 2, rows.shape[1])
    return np.concatenate([turned.swapaxes(1, 2).reshape(-1, rows.shape[1]), rows[own.query_width + own.kv_width :]])


def gate_and_up_swapped(rows: Array, own: Architecture) -> Array:
    half = own.intermediate_size
    return blocks_swapped(rows, slice(half), slice(half, None))


def halves_as_turns(rows: Array, _own: Architecture) -> Array:
    return np.concatenate([rows[0::2], rows[1::2]])


def norms_swapped(name: str) -> str:
    first, second = "input_layernorm", "post_attention_layernorm"
    return name.replace(first, "#").replace(second, first).replace("#", second)


def sparse(**changes: Any) -> Callable[[Patch, Checkpoint], Checkpoint]:
    return facts(block_sparse=lambda own: replace(own.block_sparse, **changes))


NORM, ATTENTION, MLP = "input_layernorm", "0's attention", "0's mlp"
MISREADINGS: dict[str, Misreading] = {
    "rope theta": Misreading(ATTENTION, facts(rope_theta=10000.0)),
    "short and long factors swapped": Misreading(ATTENTION, rope(short=lambda r: r.long, long=lambda r: r.short)),
    "long factors only": Misreading(ATTENTION, rope(short=lambda r: r.long)),
    "short factors only": Misreading("past original_max_position_embeddings", rope(long=lambda r: r.short)),
    "one factor": Misreading(ATTENTION, rope(short=lambda r: (*r.short[:-1], r.short[-1] * 2))),
    "no longrope": Misreading("original_max_position_embeddings", facts(longrope=None)),
    "longrope's edge": Misreading("original_max_position_embeddings", rope(original_context=EDGE + 1)),
    "attention factor": Misreading(ATTENTION, rope(short_attention_factor=1.0, long_attention_factor=1.0)),
    "no window": Misreading("sliding_window is 150 there, None here", facts(sliding_window=None)),
    "window off by one": Misreading("sliding_window", facts(sliding_window=WINDOW + 1)),
    "norm epsilon": Misreading(NORM, facts(norm_epsilon=1e-6)),
    "tied head": Misreading("the head", facts(tied_embeddings=True)),
    "context": Misreading("max_position_embeddings", facts(context_length=256)),
    "layer count": Misreading("num_hidden_layers is 3 there, 2 here", facts(layer_count=2)),
    "activation": Misreading(MLP, facts(gegelu_limit=20.0)),
    "attention scale": Misreading(ATTENTION, facts(attention_scale=1 / 16)),
    "k and v swapped": Misreading(ATTENTION, tensor("qkv_proj.weight", value_and_key_swapped)),
    "query heads reversed": Misreading(ATTENTION, tensor("qkv_proj.weight", heads_reversed)),
    "key heads' groups": Misreading(ATTENTION, tensor("qkv_proj.weight", key_heads_swapped)),
    "rope interleaved": Misreading(ATTENTION, tensor("qkv_proj.weight", interleaved)),
    "gate and up swapped": Misreading(MLP, tensor("gate_up_proj.weight", gate_and_up_swapped)),
    "o_proj transposed": Misreading("0's o_proj", tensor("o_proj.weight", lambda rows, _: rows.T)),
    "norms swapped": Misreading(NORM, renamed(norms_swapped)),
    "a layer twice": Misreading(
        "layer 1's input_layernorm", renamed(lambda name: name.replace("layers.1.", "layers.0."))
    ),
    "final norm": Misreading(
        "final norm", renamed(lambda name: name.replace("model.norm", "model.layers.0.input_layernorm"))
    ),
    "embedding one row on": Misreading("the embedding", embedded_one_row_on),
    "head one row on": Misreading("the head", tensor("lm_head.weight", lambda rows, _: np.roll(rows, 1, axis=0))),
    "bfloat16 as float16": Misreading("the embedding", bfloat16_as_float16),
    "BOS that is not there": Misreading("the tokenizer", encoded(lambda ids, special: [310] * special + ids)),
    "an added token's id": Misreading(
        "the tokenizer", encoded(lambda ids, _: [313 if token == 312 else token for token in ids])
    ),
    "an added token unknown": Misreading("the tokenizer", text_read(lambda text: text.replace("<|end|>", "<|end |>"))),
    "white space stripped": Misreading("the tokenizer", text_read(str.strip)),
    "truncation": Misreading("the tokenizer", encoded(lambda ids, _: ids[:8])),
    "spaces cleaned up": Misreading("decoded", decoded(lambda text: text.replace(" ,", ","))),
    "template": Misreading(
        "the chat template", fact_of_checkpoint("chat_template", lambda own: own.replace("\n", " ")), in_bundle=True
    ),
    "no template": Misreading("the chat template", fact_of_checkpoint("chat_template", lambda _: None), in_bundle=True),
    "llama: key heads' groups": Misreading(ATTENTION, tensor("qkv_proj.weight", key_heads_swapped), "llama"),
    "llama: gate and up swapped": Misreading(MLP, tensor("gate_up_proj.weight", gate_and_up_swapped), "llama"),
    "small: embedding multiplier": Misreading("the embedding", facts(embedding_multiplier=1.0), "phi3small"),
    "small: attention scale": Misreading(ATTENTION, facts(attention_scale=None), "phi3small"),
    "small: all layers sparse": Misreading("layer 1's attention", sparse(dense_every=0), "phi3small"),
    "small: stride": Misreading(ATTENTION, sparse(vertical_stride=4), "phi3small"),
    "small: local blocks": Misreading("blocksparse_num_local_blocks", sparse(local_blocks=3), "phi3small"),
    "small: gate and up in halves": Misreading(MLP, tensor("gate_up_proj.weight", halves_as_turns), "phi3small"),
    "small: logits' divisor": Misreading("the head", facts(logit_divisor=1.0), "phi3small"),
    "small: hidden ids": Misreading("the head", facts(hidden_token_ids=()), "phi3small"),
    "small: activation": Misreading(MLP, facts(gegelu_limit=None), "phi3small"),
    "small: attention factors": Misreading(
        "past original_max_position_embeddings",
        rope(long_attention_factor=lambda r: r.short_attention_factor),
        "phi3small",
    ),
}


@pytest.mark.parametrize("name", MISREADINGS)
def test_a_misreading_fails_and_is_located(
    sound: dict[str, tuple[Checkpoint, Bundle]], monkeypatch: Patch, tmp_path: Path, name: str
) -> None:
    planted = MISREADINGS[name]
    checkpoint, bundle = sound[planted.family]
    checkpoint = planted.plant(monkeypatch, checkpoint) or checkpoint
    if planted.in_bundle:
        bundle = build(checkpoint, recipe_named(RECIPES[planted.family]), tmp_path / "bundle")
    with pytest.raises(MeasurementError, match="What differs first") as caught:
        validate(bundle, checkpoint)
    assert planted.seen in caught.value.problem


@pytest.mark.parametrize("ids", [[310], [310, 311, 312, 313], []])
def test_other_stop_ids_fail(sound: dict[str, tuple[Checkpoint, Bundle]], ids: list[int]) -> None:
    checkpoint, bundle = sound["phi3"]
    manifest = bundle.manifest
    generation = manifest.generation.model_copy(update={"stop_token_ids": ids})
    misread = Bundle(bundle.path, manifest.model_copy(update={"generation": generation}))
    with pytest.raises(MeasurementError, match=r"stop ids are \[310, 311, 312\] there"):
        validate(misread, checkpoint)


@pytest.mark.parametrize("family", RECIPES)
def test_without_one_nothing_differs(sound: dict[str, tuple[Checkpoint, Bundle]], family: str) -> None:
    checkpoint, bundle = sound[family]
    agreement = ask_oracle(checkpoint)
    check_bundle(bundle, agreement.text)
    assert agreement.log_probability_difference < 2e-5
    assert agreement.state_difference < 2e-5
    assert "first 2 of 3 layers" in agreement.on
