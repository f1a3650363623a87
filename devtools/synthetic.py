"""Writes a checkpoint with a released model's shapes and random bfloat16 weights in a minute, streamed to disk.

Weights are slices of one pool of normal numbers, each tensor from another offset, so that only the writing takes time.
The tokenizer is a small SentencePiece model: tools need one, but its splits do not matter here. Phi-4-mini has its own,
whose 200,000 tokens are 3 % of a four-bit GGUF file.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.writing import TensorToWrite, write_safetensors
from builders.tokenizer import load_tokenizer
from devtools.phi4_tokenizer import RELEASED, write_tokenizer
from registry.files.staging import staged_folder
from targets.config_json import read_architecture
from targets.layouts import stored_shapes

POOL_ELEMENTS = (1 << 25) + 39  # not a multiple of any row's length
PIECE_ELEMENTS = 1 << 24
WEIGHT_DEVIATION = 0.02  # as transformers initialises
_PIECES = 400
_TEXT = "the quick brown fox jumps over the lazy dog and goes home to the house by the sea"
CONFIGS: dict[str, dict[str, Any]] = {
    "mini": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
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
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    },
}
CONFIGS["medium"] = CONFIGS["mini"] | {
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
}
CONFIGS["small"] = {
    "architectures": ["Phi3SmallForCausalLM"],
    "model_type": "phi3small",
    "hidden_size": 4096,
    "ff_intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 100352,
    "max_position_embeddings": 8192,
    "rope_embedding_base": 1000000,
    "rope_scaling": None,
    "layer_norm_epsilon": 1e-5,
    "hidden_act": "gegelu",
    "gegelu_limit": 20.0,
    "mup_use_scaling": True,
    "mup_attn_multiplier": 1.0,
    "mup_embedding_multiplier": 10.0,
    "mup_width_multiplier": 8.0,
    "blocksparse_block_size": 64,
    "blocksparse_num_local_blocks": 16,
    "blocksparse_vert_stride": 8,
    "dense_attention_every_n_layers": 2,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
CONFIGS["phi-4-mini"] = CONFIGS["mini"] | {
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "vocab_size": 200064,
    "max_position_embeddings": 131072,
    "sliding_window": 262144,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0] * 48,
        "long_factor": [1.0 + number for number in range(48)],
    },
    "tie_word_embeddings": True,
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "pad_token_id": 199999,
}
MODELS = tuple(CONFIGS)


def write_synthetic(model: str, folder: Path, *, layers: int | None = None) -> Path:
    """Write a checkpoint of one of `MODELS`, with fewer layers if `layers` is set. Return its folder."""
    config = CONFIGS[model] | ({} if layers is None else {"num_hidden_layers": layers})
    shapes = stored_shapes(read_architecture(config))
    pool = _pool()
    with staged_folder(folder, replace=True) as place:
        _write_json(place / "config.json", config)
        ends = {key: config[key] for key in ("bos_token_id", "pad_token_id")} | {
            "eos_token_id": [config["eos_token_id"]]
        }
        if model in RELEASED:
            ids = write_tokenizer(place, model)
            ends["eos_token_id"] = [ids[token] for token in RELEASED[model].stops]
        else:
            _write_small_tokenizer(place)
        _write_json(place / "generation_config.json", ends)
        write_safetensors(
            place / "model.safetensors",
            [_tensor(name, shape, number, pool) for number, (name, shape) in enumerate(shapes.items())],
        )
    return folder


def _pool() -> NDArray[np.uint16]:
    """Return the bits of bfloat16 normal numbers: the upper half of float32's bits."""
    values = np.random.default_rng(3).standard_normal(POOL_ELEMENTS, dtype=np.float32) * WEIGHT_DEVIATION
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _tensor(name: str, shape: tuple[int, ...], number: int, pool: NDArray[np.uint16]) -> TensorToWrite:
    def pieces() -> Iterator[NDArray[np.uint16]]:
        if len(shape) == 1 and name.endswith(".weight"):
            yield np.full(shape, 0x3F80, np.uint16)  # a norm's weight: 1 in bfloat16
            return
        left, position = int(np.prod(shape)), number * 7919 % POOL_ELEMENTS
        while left:
            piece = pool[position : position + min(left, PIECE_ELEMENTS)]
            yield piece
            left -= len(piece)
            position = (position + len(piece)) % POOL_ELEMENTS

    return TensorToWrite(name, "BF16", shape, pieces)


def _write_small_tokenizer(folder: Path) -> None:
    """Write `tokenizer.model` and `tokenizer.json`, the files that released repositories have."""
    import sentencepiece

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([_TEXT] * 20),
        model_writer=trained,
        model_type="bpe",
        vocab_size=_PIECES,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=3,
    )
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "legacy": True, **special})
    (folder / "tokenizer.json").write_bytes(load_tokenizer(folder).to_json())


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), "utf-8")


def main() -> None:
    """Write a checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    asked = parser.parse_args()
    print(write_synthetic(asked.model, asked.folder, layers=asked.layers))


if __name__ == "__main__":
    main()
