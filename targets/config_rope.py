"""Reads the rotary embedding from `config.json`, in each form in which it is written.

transformers up to 4 writes `rope_theta`, and `rope_scaling`: null or an object for longrope. transformers 5 writes one
object, `rope_parameters`, that holds all of it; it also accepts that object under the name `rope_scaling`. Such an
object is therefore read in the same way under both names. Two values that contradict each other are refused: releases
of transformers disagree on which of them applies.

Sources: `RotaryEmbeddingConfigMixin` and `Phi3Config` of transformers 5.24, `Phi3Config` and `LlamaConfig` of 4.57, and
the configuration file in Phi-3-small's repositories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from targets.architecture import LongRope
from targets.config_reader import DOWNLOAD_AGAIN, USE_SUPPORTED, ConfigReader, is_positive
from targets.errors import CheckpointError, UnsupportedModelError, did_you_mean

FILLED_IN_THETA = 10000.0  # transformers 5 writes this within the object if a family's own class has no rope_theta
LONGROPE_TYPES = ("longrope", "su")  # releases of 2024-04 say "su"
_KEEP_ONE = "keep the one that the model was trained with and remove the other"
_OBJECTS = ("rope_scaling", "rope_parameters")
_PLAIN_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_LONGROPE_KEYS = ("short_factor", "long_factor", "original_max_position_embeddings")


@dataclass(frozen=True)
class RopeKeys:
    """How a family writes its rope.

    `theta`: the top-level key of the rotary base. `default_theta`: the base if no key states it.
    `longrope_keys`: keys of a longrope object; empty if the family has no longrope.
    `original_context`: longrope's original context if no key states it.
    `original_context_outside`: transformers reads it at the top level, and never within the object.
    `theta_within`: the object's `rope_theta` is the base too. Otherwise it has no meaning: transformers 5 fills it in.
    `partial`: a head may be rotated in part, as `partial_rotary_factor` says.
    """

    family: str
    theta: str = "rope_theta"
    default_theta: float = 10000.0
    longrope_keys: tuple[str, ...] = ()
    original_context: int = 1
    original_context_outside: bool = False
    theta_within: bool = True
    partial: bool = False


PHI3_ROPE = RopeKeys(
    "Phi-3",
    longrope_keys=(*_LONGROPE_KEYS, "attention_factor", "factor"),
    original_context=4096,
    original_context_outside=True,
    partial=True,
)
LLAMA_ROPE = RopeKeys("Llama")
SMALL_ROPE = RopeKeys(
    "Phi-3-small",
    theta="rope_embedding_base",
    default_theta=1e6,
    longrope_keys=(*_LONGROPE_KEYS, "short_mscale", "long_mscale"),  # which transformers' Phi-3 does not read
    original_context=8192,
    theta_within=False,
)


@dataclass(frozen=True)
class Rope:
    """A model's rope. `rotary_dim`: elements of a head that are rotated."""

    theta: float
    longrope: LongRope | None
    rotary_dim: int


def read_rope(config: Mapping[str, Any], keys: RopeKeys, context: int, head_dim: int) -> Rope:
    """Read the rope of a model with a context of `context` tokens and heads of `head_dim`.

    Raises:
        CheckpointError: a value is invalid, or two values contradict each other.
        UnsupportedModelError: the family does not have this type of rope, or one of its keys.
    """
    objects = {name: _checked(config[name], name, keys) for name in _OBJECTS if config.get(name) is not None}
    rotary_dim = _rotary_dim(config, keys, head_dim)
    thetas = {}
    if keys.theta in config or not keys.theta_within:
        thetas[keys.theta] = ConfigReader(config).number(keys.theta, default=keys.default_theta)
    longropes: dict[str, LongRope | None] = {}
    if "rope_scaling" in config:
        longropes["rope_scaling"] = None  # null means no longrope
    for name, inner in objects.items():
        theta = inner.number("rope_theta", default=keys.default_theta)
        if "rope_theta" in config[name] and (keys.theta_within or theta != FILLED_IN_THETA):
            thetas[f"{name}.rope_theta"] = theta
        elif keys.theta_within and keys.theta not in config and _both_say_something(config):
            thetas[f"{name} without rope_theta"] = theta
        longropes[name] = None
        if _kind(config[name], name) != "default":
            longropes[name] = _longrope(config, name, keys, context, rotary_dim)
    longrope = _agreed_longrope(config, longropes)
    return Rope(_agreed(thetas, keys.default_theta), longrope, rotary_dim)


def _both_say_something(config: Mapping[str, Any]) -> bool:
    """Return True if transformers 5 reads one object and skips the other: what a key is missing from matters then."""
    return all(config.get(name) for name in _OBJECTS)


def _rotary_dim(config: Mapping[str, Any], keys: RopeKeys, head_dim: int) -> int:
    """Return how many elements of a head are rotated: transformers' own `int(head_dim * partial_rotary_factor)`.

    transformers 4 reads the factor at the top level, 5 within the object and, if it is absent there, at the top level.
    """
    key = "partial_rotary_factor"
    factors: dict[str, float] = {}
    if key in config:
        factors[key] = ConfigReader(config).number(key, default=1.0)
    for name in _OBJECTS:
        place = config.get(name) or {}
        if key in place:
            factors[f"{name}.{key}"] = ConfigReader(place, f"{name}.").number(key, default=1.0)
        elif key not in config and _both_say_something(config):
            factors[f"{name} without {key}"] = 1.0
    factor = _agreed(factors, 1.0)
    stated = next(iter(factors), key)
    if factor != 1.0 and not keys.partial:
        raise UnsupportedModelError(
            f"config.json: {stated} {factor:g} is not supported; {keys.family} rotates whole heads", fix=USE_SUPPORTED
        )
    rotated = int(head_dim * factor) if factor <= 1 else 0
    if rotated < 2 or rotated % 2:
        raise CheckpointError(
            f"config.json: {stated} {factor:g} of heads of {head_dim} elements: an even number of elements, from 2 to "
            f"{head_dim}, must be rotated",
            fix=DOWNLOAD_AGAIN,
        )
    return rotated


def _checked(value: object, name: str, keys: RopeKeys) -> ConfigReader:
    """Check that the family knows the type and all keys of a rope's object. Return a reader of the object."""
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {name} must be null or an object, not {value!r}", fix=DOWNLOAD_AGAIN)
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            raise UnsupportedModelError(
                f"config.json: {name}.{key}: a separate rope for a type of layer is not supported; "
                f"all layers of {keys.family} have the same one",
                fix=USE_SUPPORTED,
            )
    kind = _kind(value, name)
    known: tuple[str, ...] = _PLAIN_KEYS
    if kind != "default":
        if kind != "longrope" or not keys.longrope_keys:
            has = "'default' and 'longrope' (or 'su')" if keys.longrope_keys else "'default' (not Llama-3.1's or later)"
            raise UnsupportedModelError(
                f"config.json: {name} type {kind!r} is not supported; {keys.family} has {has}", fix=USE_SUPPORTED
            )
        known += keys.longrope_keys
    for key in value:
        if key not in known:
            raise UnsupportedModelError(
                f"config.json: {name}.{key} is not known for {keys.family}'s rope of type {kind!r}",
                fix=did_you_mean(key, known),
            )
    return ConfigReader(value, f"{name}.")


def _kind(value: Mapping[str, Any], name: str) -> object:
    """Return a rope's type: "default", "longrope" for any of its names, or any other value as it is written."""
    written = [value[key] for key in ("rope_type", "type") if value.get(key) is not None]
    kinds = ["longrope" if kind in LONGROPE_TYPES else kind for kind in written]
    if len(kinds) > 1 and kinds[0] != kinds[1]:
        raise CheckpointError(
            f"config.json: {name}.rope_type {written[0]!r} and {name}.type {written[1]!r} contradict each other",
            fix=f"remove {name}.type, and set {name}.rope_type to the type that the model was trained with",
        )
    return kinds[0] if kinds else "default"


def _longrope(config: Mapping[str, Any], name: str, keys: RopeKeys, context: int, rotary_dim: int) -> LongRope:
    inner = ConfigReader(config[name], f"{name}.")
    original = _original_context(config, name, keys)
    if original == 1:
        raise CheckpointError(
            "config.json: original_max_position_embeddings must be over 1 with longrope, not 1",
            fix="set original_max_position_embeddings to the context, in tokens, that the model had before longrope",
        )
    ratio = inner.number_or_null("factor", default=context / original)
    factor = 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(original))
    factor = inner.number_or_null("attention_factor", default=factor)
    return LongRope(
        short=_factors(config[name], f"{name}.short_factor", rotary_dim),
        long=_factors(config[name], f"{name}.long_factor", rotary_dim),
        original_context=original,
        short_attention_factor=inner.number("short_mscale", default=factor),
        long_attention_factor=inner.number("long_mscale", default=factor),
    )


def _original_context(config: Mapping[str, Any], name: str, keys: RopeKeys) -> int:
    """Return the context before longrope, in tokens. Phi-3 states it next to the object, Phi-3-small within it."""
    key = "original_max_position_embeddings"
    outside = config.get(key)
    outer = ConfigReader(config).positive(key, default=keys.original_context)
    inner = ConfigReader(config[name], f"{name}.").positive_or_null(key, default=outer)
    if inner == outer or (outside is None and not keys.original_context_outside):
        return inner
    if outside is None:
        raise CheckpointError(
            f"config.json: {key} is missing, so transformers uses {outer}, but {name}.{key} is {inner}",
            fix=f'add "{key}": {inner} at the top level, where {keys.family} has it, if that is the right value',
        )
    raise CheckpointError(
        f"config.json: {key} {outer} and {name}.{key} {inner} contradict each other",
        fix=_KEEP_ONE,
    )


def _factors(value: Mapping[str, Any], name: str, rotary_dim: int) -> tuple[float, ...]:
    values = value.get(name.rpartition(".")[2])
    if not isinstance(values, list) or len(values) != rotary_dim // 2:
        found = len(values) if isinstance(values, list) else values
        raise CheckpointError(
            f"config.json: {name} must list {rotary_dim // 2} numbers, not {found!r}", fix=DOWNLOAD_AGAIN
        )
    if not all(is_positive(v) for v in values):
        raise CheckpointError(f"config.json: {name} holds a value that is not a positive number", fix=DOWNLOAD_AGAIN)
    return tuple(float(v) for v in values)


def _agreed(values: Mapping[str, float], default: float) -> float:
    """Return the number that all keys agree on."""
    if len(set(values.values())) > 1:
        stated = " and ".join(f"{key} {value!r}" for key, value in values.items())
        raise CheckpointError(f"config.json: {stated} contradict each other", fix=_KEEP_ONE)
    return next(iter(values.values()), default)


def _agreed_longrope(config: Mapping[str, Any], longropes: Mapping[str, LongRope | None]) -> LongRope | None:
    """Return the longrope that both objects agree on."""
    if len(set(longropes.values())) > 1:
        one, other = (config[name] or {} for name in _OBJECTS)
        keys = sorted(key for key in {*one, *other} - {"rope_theta"} if one.get(key) != other.get(key))
        differences = ", ".join(keys) if all(longropes.values()) else "one has longrope, the other has none"
        raise CheckpointError(
            f"config.json: rope_scaling and rope_parameters contradict each other: {differences}",
            fix=_KEEP_ONE,
        )
    return next(iter(longropes.values()), None)
