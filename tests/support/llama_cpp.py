"""llama.cpp itself, as what our files are held to: its quantizer, its tokenizer, and its reading of a file."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from builders.checkpoint import Checkpoint
from builders.gguf.convert import gguf_name, read_for_llama_cpp
from targets.layouts import stored_shapes

FILE_TYPES = {"gguf-f16": 1, "gguf-q8_0": 7, "gguf-q4_0": 2, "gguf-q4_k_m": 15}  # enum llama_ftype


def silence() -> None:
    llama_cpp.llama_log_set(_IGNORE, ctypes.c_void_p(0))


_IGNORE = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)


def write_float32(checkpoint: Checkpoint, path: Path) -> Path:
    """The checkpoint in float32, by gguf's own writer: what llama.cpp's quantizer starts from."""
    architecture = checkpoint.architecture
    writer = gguf.GGUFWriter(path, architecture.family)
    writer.add_context_length(architecture.context_length)
    writer.add_embedding_length(architecture.hidden_size)
    writer.add_feed_forward_length(architecture.intermediate_size)
    writer.add_block_count(architecture.layer_count)
    writer.add_head_count(architecture.head_count)
    writer.add_head_count_kv(architecture.kv_head_count)
    writer.add_layer_norm_rms_eps(architecture.norm_epsilon)
    writer.add_rope_dimension_count(architecture.head_dim)
    writer.add_file_type(0)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(architecture.vocabulary_size)
    source = checkpoint.open_tensors()
    for name in stored_shapes(architecture):
        writer.add_tensor(gguf_name(name), read_for_llama_cpp(source, architecture, name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantize(source: Path, target: Path, file_type: int) -> Path:
    """What llama-quantize does."""
    silence()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 2
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0
    return target


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor's type, shape and bytes."""
    return {
        entry.name: (entry.tensor_type.name, tuple(int(n) for n in entry.shape), np.asarray(entry.data).tobytes())
        for entry in gguf.GGUFReader(path).tensors
    }


def metadata(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


@contextmanager
def vocabulary(path: Path) -> Iterator[Vocabulary]:
    """The file's tokenizer alone, as llama.cpp loads it."""
    silence()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, "llama.cpp refuses the file"
    try:
        yield Vocabulary(llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)


class Vocabulary:
    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        raw = text.encode()
        room = len(raw) + 8
        out = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._handle, raw, len(raw), out, room, add_special, True)
        assert count >= 0
        return list(out[:count])

    def ends(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._handle, token))

    @property
    def size(self) -> int:
        return int(llama_cpp.llama_vocab_n_tokens(self._handle))
