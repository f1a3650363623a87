"""Writes a checkpoint with a released model's shapes and random bfloat16 weights in a minute, streamed to disk.

Weights are slices of one pool of normal numbers, each tensor from another offset, so that only the writing takes time.
The tokenizer is a small SentencePiece model: tools need one, but its splits do not matter here. Phi-4-mini has its own,
whose 200,000 tokens are 3 % of a four-bit GGUF file.

Of random weights, four bits leave no greedy answer as it was: the likeliest of 32,000 tokens is hardly likelier than
the next. A validation then costs what it does for no trained model. `sure_weights` writes one whose answers survive:

    embedding         standard deviation 1, so that the token itself is half of the last state's energy
    layers            o_proj and down_proj are small, so that all branches together are the other half
    head              row j has the direction of the embedding's row j - `FOLLOWS`: after token i, i + `FOLLOWS` is
                      far likelier than others. Rows of a share of the tokens (`undecided`) have not: after these,
                      what the layers add decides, and four bits often decide otherwise.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint.writing import TensorToWrite, write_safetensors
from builders.tokenizer import load_tokenizer
from devtools.phi4_tokenizer import RELEASED, write_tokenizer
from registry.files.staging import staged_folder
from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.layouts import stored_shapes

POOL_ELEMENTS = (1 << 25) + 39  # not a multiple of any row's length
PIECE_ELEMENTS = 1 << 24
WEIGHT_DEVIATION = 0.02  # as transformers initialises
_TENSOR_STEP = 7919  # elements of the pool between the beginnings of two tensors
_EMBEDDING = "model.embed_tokens.weight"
_ENDS_OF_BRANCHES = ("o_proj.weight", "down_proj.weight")
FOLLOWS = 7919  # what is likeliest after token i is i plus this number, around the vocabulary
_SPREAD = 1.1  # standard deviation of what matrices of the sure model yield, and of the logits of other tokens
_SURE_LOGIT = 12.0  # of the likeliest token: of 32,000 it has three quarters of the probability
_BRANCHES = 0.6  # o_proj and down_proj are scaled by it and by the root of the number of layers
_PIECE_ROWS = 1 << 10
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


def write_synthetic(model: str, folder: Path, *, layers: int | None = None, undecided: float | None = None) -> Path:
    """Write a checkpoint of one of `MODELS`, with fewer layers if `layers` is set. Return its folder.

    `undecided`: write the model whose greedy answers survive four bits, but for this share of its tokens.
    """
    config = CONFIGS[model] | ({} if layers is None else {"num_hidden_layers": layers})
    architecture = read_architecture(config)
    shapes = stored_shapes(architecture)
    pool = _pool()
    weights = [_tensor(name, shape, number, pool) for number, (name, shape) in enumerate(shapes.items())]
    if undecided is not None:
        weights = sure_weights(weights, architecture, undecided, pool)
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
        write_safetensors(place / "model.safetensors", weights)
    return folder


def sure_weights(
    weights: Sequence[TensorToWrite], architecture: Architecture, undecided: float, pool: NDArray[np.uint16]
) -> list[TensorToWrite]:
    """Return tensors of a model that is sure of its answers, but for a share of its tokens. See the module's text.

    Raises:
        ValueError: the head is the embedding itself, or the model is Phi-3-small, whose branches have other sizes.
    """
    if architecture.head_tensor == _EMBEDDING or architecture.block_sparse is not None:
        raise ValueError("written for models of Phi-3's formulas with a head of their own: mini, medium")
    branch = _BRANCHES / np.sqrt(architecture.layer_count)
    gain = _SPREAD / np.sqrt(architecture.hidden_size) / WEIGHT_DEVIATION
    found = []
    for number, tensor in enumerate(weights):
        if tensor.name == _EMBEDDING:
            found.append(_scaled(tensor, 1 / WEIGHT_DEVIATION))
        elif tensor.name == architecture.head_tensor:
            found.append(_sure_head(tensor, number, undecided, pool))
        elif len(tensor.shape) == 1:
            found.append(tensor)
        else:
            found.append(_scaled(tensor, gain * (branch if tensor.name.endswith(_ENDS_OF_BRANCHES) else 1)))
    return found


def _sure_head(tensor: TensorToWrite, number: int, undecided: float, pool: NDArray[np.uint16]) -> TensorToWrite:
    """Return a head, [vocabulary, hidden], whose rows follow those of the embedding, which is the first tensor."""
    vocabulary, hidden = tensor.shape
    deviation = _SPREAD / np.sqrt(hidden)
    along = np.sqrt(2) * _SURE_LOGIT / hidden  # of an embedding's row of deviation 1, half of the state's energy

    def pieces() -> Iterator[NDArray[np.uint16]]:
        for first in range(0, vocabulary, _PIECE_ROWS):
            ids = np.arange(first, min(first + _PIECE_ROWS, vocabulary))
            before = (ids - FOLLOWS) % vocabulary
            decided = _fraction(before) >= undecided
            rows = _rows(pool, number, ids, hidden) * np.float32(deviation / WEIGHT_DEVIATION)
            rows += np.where(decided, along / WEIGHT_DEVIATION, 0)[:, None] * _rows(pool, 0, before, hidden)
            yield _bits(rows).reshape(-1)

    return TensorToWrite(tensor.name, tensor.dtype, tensor.shape, pieces)


def _fraction(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a number of [0, 1) for each token, evenly spread."""
    return (ids * 0.6180339887) % 1


def _rows(pool: NDArray[np.uint16], number: int, ids: NDArray[np.int64], hidden: int) -> NDArray[np.float32]:
    """Return rows of the matrix that `_tensor` writes as the tensor of this number."""
    places = number * _TENSOR_STEP + ids[:, None] * hidden + np.arange(hidden)
    return _values(pool[places % POOL_ELEMENTS])


def _scaled(tensor: TensorToWrite, factor: float) -> TensorToWrite:
    def pieces() -> Iterator[NDArray[np.uint16]]:
        for piece in tensor.pieces():
            yield _bits(_values(piece) * np.float32(factor))

    return TensorToWrite(tensor.name, tensor.dtype, tensor.shape, pieces)


def _values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return bfloat16 numbers in float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _bits(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Return the bits of numbers cut to bfloat16: the upper half of float32's."""
    return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _pool() -> NDArray[np.uint16]:
    """Return the bits of bfloat16 normal numbers."""
    return _bits(np.random.default_rng(3).standard_normal(POOL_ELEMENTS, dtype=np.float32) * WEIGHT_DEVIATION)


def _tensor(name: str, shape: tuple[int, ...], number: int, pool: NDArray[np.uint16]) -> TensorToWrite:
    def pieces() -> Iterator[NDArray[np.uint16]]:
        if len(shape) == 1 and name.endswith(".weight"):
            yield np.full(shape, 0x3F80, np.uint16)  # a norm's weight: 1 in bfloat16
            return
        left, position = int(np.prod(shape)), number * _TENSOR_STEP % POOL_ELEMENTS
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
    parser.add_argument(
        "--undecided",
        type=float,
        metavar="SHARE",
        help="write a model whose greedy answers survive four bits, but after this share of its tokens",
    )
    asked = parser.parse_args()
    print(write_synthetic(asked.model, asked.folder, layers=asked.layers, undecided=asked.undecided))


if __name__ == "__main__":
    main()
