"""llama.cpp itself, as what our files are held to: its quantizer, its tokenizer, and its reading of a file."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.gguf.convert import read_for_llama_cpp
from targets.architecture import Architecture
from targets.gguf_names import gguf_name
from targets.layouts import stored_shapes
from targets.storage.gguf import TYPES

FILE_TYPES = {  # enum llama_ftype
    "gguf-f16": 1,
    "gguf-q8_0": 7,
    "gguf-q6_k": 18,
    "gguf-q5_k_m": 17,
    "gguf-q4_k_m": 15,
    "gguf-q4_0": 2,
    "gguf-iq4_nl": 25,
    "gguf-q3_k_m": 12,
}


def silence() -> None:
    llama_cpp.llama_log_set(_IGNORE, ctypes.c_void_p(0))


_IGNORE = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)


def write_float32(checkpoint: Checkpoint, path: Path) -> Path:
    """The checkpoint in float32, by gguf's own writer: what llama.cpp's quantizer starts from."""
    architecture = checkpoint.architecture
    writer = _writer(architecture, path)
    source = checkpoint.open_tensors()
    for name in stored_shapes(architecture):
        writer.add_tensor(gguf_name(name), read_for_llama_cpp(source, architecture, name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_hollow(architecture: Architecture, path: Path) -> Path:
    """A file in float32 whose weights take no room on the disk: all are zero."""
    writer = _writer(architecture, path)
    size = 0
    for name, shape in stored_shapes(architecture).items():
        room = 4 * math.prod(shape)
        writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.float32), room)
        size += room + -room % gguf.GGUF_DEFAULT_ALIGNMENT
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = path.stat().st_size
    os.truncate(path, start + -start % gguf.GGUF_DEFAULT_ALIGNMENT + size)
    return path


def _writer(architecture: Architecture, path: Path) -> Any:
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
    return writer


def quantize(
    source: Path, target: Path, file_type: int, importances: Mapping[str, NDArray[np.float32]] | None = None
) -> Path:
    """What llama-quantize does, with an importance matrix where there is one: means by llama.cpp's names."""
    silence()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 2
    item, pointer = llama_cpp.llama_model_imatrix_data, ctypes.POINTER(ctypes.c_float)
    given = (importances or {}).items()
    items = [item(name.encode(), means.ctypes.data_as(pointer), means.size) for name, means in given]
    if items:
        parameters.imatrix = (item * (len(items) + 1))(*items)  # ends with one without a name
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0
    return target


def chosen_types(source: Path, file_type: int) -> dict[str, str]:
    """The type that llama-quantize would give each tensor, by its own log: with --dry-run it quantizes nothing."""
    said: list[str] = []
    log = llama_cpp.llama_log_callback(lambda _level, text, _data: said.append(text.decode()))
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.dry_run = file_type, True
    unused = str(source.with_name("unused")).encode()
    code = llama_cpp.llama_model_quantize(str(source).encode(), unused, ctypes.byref(parameters))
    silence()
    assert code == 0
    lines = re.findall(
        r"^\[ *\d+/ *\d+\] (\S+) .* type = +(\w+), size = .*?(?:\((\w+)\))?$", "".join(said), re.MULTILINE
    )
    return {name: (quantized or kept).upper() for name, kept, quantized in lines}


def dequantize(blocks: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """What ggml computes with: `dequantize_row_*` of its C library, one row of all elements."""
    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.so"))))
    stem, _, suffix = kind.partition("_")
    function = library[f"dequantize_row_{stem.lower()}_{suffix if suffix == 'K' else suffix.lower()}"]
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function.restype = None
    raw = np.ascontiguousarray(blocks)
    out = np.empty(raw.size // TYPES[kind].bytes * TYPES[kind].length, dtype=np.float32)
    function(raw.ctypes.data, out.ctypes.data, out.size)
    return out


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
