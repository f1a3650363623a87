"""Tiny random checkpoints of each family, made in a second: for shapes, parity and damage, not accuracy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from targets.config_json import read_architecture
from targets.layouts import stored_shapes

VOCABULARY_SIZE = 320
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = {"<|endoftext|>": 310, "<|assistant|>": 311, "<|end|>": 312, "<|user|>": 313, "<|system|>": 314}
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Tiny:
    """Shape of a tiny checkpoint; every field may be changed."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None  # None: the hidden size divided by the heads; longrope needs that
    intermediate: int = 128
    context: int = 512
    original_context: int | None = None  # with a value: longrope
    window: int | None = None
    rotated: float = 1.0  # share of a head's elements that are rotated
    tied: bool = False
    dtype: str = "BF16"
    shards: int = 1
    seed: int = 0
    family: str = "phi3"  # or "llama", "phi3small" (blocks of 16 tokens, 2 local ones, every third beyond them)

    def config(self) -> dict[str, Any]:
        config = self._phi3()
        if self.head_dim is not None:
            config["head_dim"] = self.head_dim
        if self.family == "llama":
            config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
            for key in ("original_max_position_embeddings", "sliding_window"):
                del config[key]
        if self.family == "phi3small":
            config = self._phi3_small(config)
        return config

    def _phi3_small(self, config: dict[str, Any]) -> dict[str, Any]:
        shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
        ids = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "rope_scaling")
        small = {key: config[key] for key in (*shared, *ids)}
        if self.original_context is not None:
            # As released: within rope_scaling, and a factor of its own for each side.
            small["rope_scaling"] |= {
                "type": "su",
                "original_max_position_embeddings": self.original_context,
                "short_mscale": 1.0,
                "long_mscale": 1.125,
            }
        return small | {
            "architectures": ["Phi3SmallForCausalLM"],
            "model_type": "phi3small",
            "ff_intermediate_size": self.intermediate,
            "hidden_act": "gegelu",
            "gegelu_limit": 20.0,
            "layer_norm_epsilon": 1e-5,
            "rope_embedding_base": 1000000,
            "mup_use_scaling": True,
            "mup_attn_multiplier": 1.0,
            "mup_embedding_multiplier": 10.0,
            "mup_width_multiplier": 8.0,
            "blocksparse_block_size": 16,
            "blocksparse_num_local_blocks": 2,
            "blocksparse_vert_stride": 3,
            "dense_attention_every_n_layers": 2,
            "dummy_token_indices": [300, 319],
        }

    def _phi3(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": VOCABULARY_SIZE,
            "max_position_embeddings": self.context,
            "original_max_position_embeddings": self.original_context or self.context,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "sliding_window": self.window,
            "tie_word_embeddings": self.tied,
            "bos_token_id": SPECIAL["<|endoftext|>"],
            "eos_token_id": SPECIAL["<|endoftext|>"],
            "pad_token_id": SPECIAL["<|endoftext|>"],
            "torch_dtype": "bfloat16",
        }
        if self.rotated != 1:
            config["partial_rotary_factor"] = self.rotated
        if self.original_context is not None:
            half = int(self.hidden // self.heads * self.rotated) // 2
            config["rope_scaling"] = {
                "type": "longrope",
                "short_factor": [1.0 + 0.02 * i for i in range(half)],
                "long_factor": [1.0 + 0.7 * i for i in range(half)],
            }
        return config


def write_tiny(folder: Path, tiny: Tiny | None = None, **changes: Any) -> Path:
    """Write a whole checkpoint (weights, configs, byte-level BPE tokenizer, chat template) and give its folder."""
    tiny = Tiny(**changes) if tiny is None else tiny
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny.config()
    write_json(folder / "config.json", config)
    generation = {"bos_token_id": 310, "eos_token_id": [310, 311, 312], "pad_token_id": 310}
    write_json(folder / "generation_config.json", generation)
    write_tokenizer(folder)
    write_weights(folder, random_weights(config, tiny.seed), dtype=tiny.dtype, shards=tiny.shards)
    return folder


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 weights of a scale that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in stored_shapes(read_architecture(config)).items():
        if name.endswith(".bias"):
            weights[name] = (0.1 * rng.standard_normal(shape)).astype(np.float32)
        elif len(shape) == 1:
            weights[name] = (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
        else:
            weights[name] = (rng.standard_normal(shape) * shape[1] ** -0.5).astype(np.float32)
    return weights


def write_weights(folder: Path, weights: dict[str, np.ndarray], *, dtype: str = "BF16", shards: int = 1) -> None:
    """Write safetensors: one file, or several with an index."""
    cast = {name: np.ascontiguousarray(value.astype(_DTYPES[dtype])) for name, value in weights.items()}
    if shards == 1:
        save_file(cast, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(cast)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: cast[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_overflowing(folder: Path, **weights: np.ndarray) -> str:
    """Write a checkpoint in whose second layer the squares of one matrix's inputs overflow; return the matrix's name.

    `weights`: others, in place of random ones.
    """
    name, found = "model.layers.1.mlp.down_proj.weight", random_weights(Tiny().config()) | weights
    found["model.layers.1.mlp.gate_up_proj.weight"] *= np.float32(2e10)
    found[name] *= np.float32(1e-20)
    write_weights(write_tiny(folder), found, dtype="F32")
    return name


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer of 256 bytes and a few merges, padded to the vocabulary, with Phi-3's turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("Ġ", "the"), ("e", "r"), ("o", "n")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    while len(vocabulary) < min(SPECIAL.values()):
        vocabulary[f"<unused{len(vocabulary)}>"] = len(vocabulary)
    for token, number in SPECIAL.items():
        vocabulary[token] = number
    while len(vocabulary) < VOCABULARY_SIZE:
        vocabulary[f"<unused{len(vocabulary)}>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "chat_template": CHAT_TEMPLATE,
        },
    )


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), "utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object in a file; `...` removes one."""
    content = json.loads(path.read_text("utf-8")) | changes
    write_json(path, {key: value for key, value in content.items() if value is not ...})


def edit_config(folder: Path, key: str, value: Any) -> None:
    """Change a key of a checkpoint's config.json: of its `rope_scaling` where that has it."""
    config = json.loads((folder / "config.json").read_bytes())
    (config["rope_scaling"] if key in config["rope_scaling"] else config)[key] = value
    write_json(folder / "config.json", config)
