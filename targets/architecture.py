"""What a Phi-3 is made of: the facts that every builder needs, read once from `config.json`.

Field names follow what the numbers mean, not how `config.json` spells them. Source of the layout: transformers'
`Phi3Config`/`Phi3ForCausalLM`; the fused rows are [q | k | v] and [gate | up].
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from targets.errors import CheckpointError, UnsupportedModelError, did_you_mean

SUPPORTED = ("Phi3ForCausalLM",)
LARGEST_SIZE = (1 << 31) - 1  # of a dimension or a count in config.json
LONGROPE_TYPES = ("longrope", "su")  # releases of 2024-04 say "su"


@dataclass(frozen=True)
class LongRope:
    """Per-frequency divisors: `short` while the sequence fits in `original_context`, `long` beyond it."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    attention_factor: float


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder with Phi-3's blocks. Lengths are in tokens, sizes in elements."""

    name: str
    layer_count: int
    hidden_size: int
    intermediate_size: int
    head_count: int
    kv_head_count: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    rope_theta: float
    norm_epsilon: float
    tied_embeddings: bool
    sliding_window: int | None = None
    longrope: LongRope | None = None

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.head_count * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together (values: the same)."""
        return self.kv_head_count * self.head_dim

    @property
    def effective_window(self) -> int | None:
        """The sliding window where it can bite: None if no position of the context lies past it."""
        if self.sliding_window is None or self.sliding_window >= self.context_length:
            return None
        return self.sliding_window

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a checkpoint must hold, by its Hugging Face name, in file order. Matrices are [out, in]."""
        hidden = (self.hidden_size,)
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary_size, self.hidden_size)}
        for layer in range(self.layer_count):
            prefix = f"model.layers.{layer}."
            shapes[prefix + "input_layernorm.weight"] = hidden
            shapes[prefix + "self_attn.qkv_proj.weight"] = (self.query_width + 2 * self.kv_width, self.hidden_size)
            shapes[prefix + "self_attn.o_proj.weight"] = (self.hidden_size, self.query_width)
            shapes[prefix + "post_attention_layernorm.weight"] = hidden
            shapes[prefix + "mlp.gate_up_proj.weight"] = (2 * self.intermediate_size, self.hidden_size)
            shapes[prefix + "mlp.down_proj.weight"] = (self.hidden_size, self.intermediate_size)
        shapes["model.norm.weight"] = hidden
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocabulary_size, self.hidden_size)
        return shapes

    @property
    def head_tensor(self) -> str:
        """Name of the tensor that gives the logits: the embedding itself where it is tied."""
        return "model.embed_tokens.weight" if self.tied_embeddings else "lm_head.weight"

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def kv_cache_bytes(self, tokens: int, *, bytes_per_value: int = 2) -> int:
        """Bytes of keys and values of `tokens` positions over all layers."""
        return 2 * self.layer_count * self.kv_width * tokens * bytes_per_value

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Read `config.json`.

        Raises:
            CheckpointError: a key is missing or makes no sense.
            UnsupportedModelError: another architecture, activation or rope than Phi-3's.
        """
        name = _architecture_name(config)
        reader = _ConfigReader(config)
        hidden = reader.positive("hidden_size")
        heads = reader.positive("num_attention_heads")
        kv_heads = reader.positive("num_key_value_heads", default=heads)
        if hidden % heads or heads % kv_heads:
            raise CheckpointError(
                f"config.json: hidden_size {hidden}, num_attention_heads {heads} and num_key_value_heads {kv_heads} "
                "don't divide one another"
            )
        if reader.number("partial_rotary_factor", default=1.0) != 1.0:
            raise UnsupportedModelError("config.json: partial_rotary_factor other than 1 is not Phi-3's rope")
        if config.get("hidden_act", "silu") != "silu":
            raise UnsupportedModelError(f"config.json: hidden_act {config['hidden_act']!r}; Phi-3 has 'silu'")
        if config.get("attention_bias") or config.get("quantization_config"):
            raise UnsupportedModelError(
                "config.json: attention_bias and quantization_config are not supported",
                fix="take the checkpoint in float16, bfloat16 or float32, as released",
            )
        context = reader.positive("max_position_embeddings")
        window = config.get("sliding_window")
        return cls(
            name=name,
            layer_count=reader.positive("num_hidden_layers"),
            hidden_size=hidden,
            intermediate_size=reader.positive("intermediate_size"),
            head_count=heads,
            kv_head_count=kv_heads,
            head_dim=hidden // heads,
            vocabulary_size=reader.positive("vocab_size"),
            context_length=context,
            rope_theta=reader.number("rope_theta", default=10000.0),
            norm_epsilon=reader.number("rms_norm_eps", default=1e-5),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            sliding_window=reader.positive("sliding_window") if window is not None else None,
            longrope=_longrope(config, context, hidden // heads),
        )


class _ConfigReader:
    """Reads numbers out of a config, with errors that name the key."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def positive(self, key: str, *, default: int | None = None) -> int:
        value = self._config.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_SIZE:
            raise CheckpointError(f"config.json: {key} must be a positive whole number, not {value!r}")
        return value

    def number(self, key: str, *, default: float) -> float:
        value = self._config.get(key, default)
        if not _is_positive(value):
            raise CheckpointError(f"config.json: {key} must be a positive number, not {value!r}")
        return float(value)


def _is_positive(value: object) -> bool:
    """True for a number over 0 that is finite as a float (JSON may write an integer of 400 digits)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= sys.float_info.max


def _architecture_name(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            "config.json: 'architectures' is missing or empty, so the kind of model is unknown",
            fix='add "architectures": ["Phi3ForCausalLM"] if that is what it is',
        )
    for name in names:
        if name in SUPPORTED:
            return str(name)
    raise UnsupportedModelError(
        f"config.json: architecture {names[0]!r} is not supported", fix=did_you_mean(names[0], SUPPORTED)
    )


def _longrope(config: Mapping[str, Any], context: int, head_dim: int) -> LongRope | None:
    scaling = config.get("rope_scaling")
    if scaling is None:
        return None
    if not isinstance(scaling, Mapping):
        raise CheckpointError(f"config.json: rope_scaling must be null or an object, not {scaling!r}")
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind not in LONGROPE_TYPES:
        raise UnsupportedModelError(f"config.json: rope_scaling type {kind!r}; Phi-3 has 'longrope' (or 'su')")
    original = _ConfigReader(config).positive("original_max_position_embeddings", default=4096)
    factors = {}
    for key in ("short_factor", "long_factor"):
        values = scaling.get(key)
        if not isinstance(values, list) or len(values) != head_dim // 2:
            found = len(values) if isinstance(values, list) else values
            raise CheckpointError(f"config.json: rope_scaling.{key} must list {head_dim // 2} numbers, not {found!r}")
        if not all(_is_positive(v) for v in values):
            raise CheckpointError(f"config.json: rope_scaling.{key} holds a value that is not a positive number")
        factors[key] = tuple(float(v) for v in values)
    if original == 1:
        raise CheckpointError("config.json: original_max_position_embeddings must be over 1 with longrope, not 1")
    ratio = context / original
    factor = 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(original))
    return LongRope(factors["short_factor"], factors["long_factor"], original, factor)
