"""Checkpoints, their tokenizers and adapters; programs of Core ML."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np

from builders.checkpoint import open_checkpoint, read_json
from builders.checkpoint.adapter.config import read_adapter_config
from builders.checkpoint.shards import INDEX_NAME, read_header
from builders.checkpoint.tokenizer_files import default_chat_template
from builders.checkpoint.weight_files import find_weights
from builders.gguf.byte_level import byte_level_vocabulary
from builders.gguf.pieces import pieces_of_json, space_of_json
from builders.gguf.tokenizer_json import read_tokenizer_json
from builders.gguf.vocabulary import lay_out
from builders.runtime.coreml.program_file import read_program
from builders.tokenizer import read_bundled_tokenizer
from builders.tokenizer.tiktoken import tokenizer_json_of_ranks
from builders.tokenizer.unread import _pieces
from targets.config_json import read_architecture
from tests.fuzz.target import Target, file
from tests.support.checkpoints import Tiny, write_tiny


def header_target(folder: Path) -> Target:
    from safetensors.numpy import save

    raw = save({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float16)}, {"format": "pt"})
    return Target((raw,), file(folder / "model.safetensors", read_header))


def index_target(folder: Path) -> Target:
    checkpoint = write_tiny(folder / "checkpoint", shards=2)
    index = checkpoint / INDEX_NAME
    return Target((index.read_bytes(),), file(index, lambda _: find_weights(checkpoint)))


def config_target(folder: Path) -> Target:
    checkpoint = write_tiny(folder / "checkpoint")
    path = checkpoint / "config.json"
    return Target((path.read_bytes(),), file(path, lambda _: open_checkpoint(checkpoint)), 200)


def architecture_target(folder: Path) -> Target:
    configs = [Tiny(family=family).config() for family in ("phi3", "phi3small", "llama")]
    configs.append(
        configs[0] | {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}}
    )

    def read(path: Path) -> object:
        return read_architecture(read_json(path, required=True))

    return Target(tuple(json.dumps(config).encode() for config in configs), file(folder / "config.json", read))


def tokenizer_config_target(folder: Path) -> Target:
    path = write_tiny(folder / "checkpoint") / "tokenizer_config.json"
    named = {"chat_template": [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]}
    corpus = (path.read_bytes(), json.dumps(json.loads(path.read_bytes()) | named).encode())
    return Target(corpus, file(path, lambda _: default_chat_template(path.parent, read_json(path, required=True))))


def adapter_target(folder: Path) -> Target:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    config |= {"target_modules": ["qkv_proj", "o_proj"], "bias": "none", "rank_pattern": {"o_proj": 2}}
    return Target(
        (json.dumps(config).encode(),), file(folder / "adapter_config.json", lambda _: read_adapter_config(folder))
    )


def ranks_target(folder: Path) -> Target:
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"abab", b"abc"]
    raw = b"\n".join(base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens))
    path = folder / "cl100k_base.tiktoken"
    listed = {"added_tokens_decoder": {"300": {"content": "<|end|>", "special": True}}}
    return Target((raw,), file(path, lambda _: tokenizer_json_of_ranks(path, listed)), 150)


def tokenizer_json_target(folder: Path) -> Target:
    checkpoint = write_tiny(folder / "checkpoint")
    path = checkpoint / "tokenizer.json"

    def read(_: Path) -> object:
        tokenizer = read_bundled_tokenizer(checkpoint)
        tokenizer.encode("The quick brown fox")
        file = read_tokenizer_json(tokenizer.to_json(), source="tokenizer")
        if not file.model.byte_fallback:
            return byte_level_vocabulary(file, 4096, source="tokenizer")
        space_of_json(file, starts_with_token=True, source="tokenizer")
        return lay_out(pieces_of_json(file), file.added, 4096, source="tokenizer")

    return Target((path.read_bytes(),), file(path, read), 150)


def pieces_model_target(folder: Path) -> Target:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    for piece in ("<unk>", "a", "ab"):
        model.pieces.add(piece=piece, score=-1.0)
    return Target((model.SerializeToString(),), file(folder / "tokenizer.model", _pieces))


def core_ml_target(folder: Path) -> Target:
    from coremltools import proto

    model = proto.Model_pb2.Model()
    main = model.mlProgram.functions["main"]
    main.opset = "CoreML8"
    operations = main.block_specializations["CoreML8"].operations
    constant = operations.add(type="const")
    constant.outputs.add(name="c")
    value = constant.attributes["val"]
    value.type.tensorType.dataType = 23
    value.type.tensorType.dimensions.add().constant.size = 2
    value.immediateValue.tensor.ints.values.extend((1, 2))
    step = operations.add(type="add")
    step.inputs["x"].arguments.add(name="c")
    step.outputs.add(name="y").type.tensorType.dataType = 11
    path = folder / "model.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
    path.parent.mkdir(parents=True)
    return Target((model.SerializeToString(),), file(path, lambda _: read_program(folder / "model.mlpackage")))
