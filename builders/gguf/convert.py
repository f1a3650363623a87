"""A checkpoint as `model.gguf`: metadata, then tensor after tensor: read, encoded, written.

    blk.N.attn_norm  attn_qkv [q | k | v]  attn_output  ffn_norm  ffn_up [gate | up]  ffn_down
    token_embd  output_norm  output (not where it is tied)  rope_factors_long, rope_factors_short (longrope)

That is architecture phi3. Llama's layout becomes architecture llama, whose attn_q, attn_k, attn_v, ffn_gate and ffn_up
are separate, and whose rotation pairs neighbouring rows where the checkpoint's pairs halves: rows of attn_q and attn_k
are reordered for it.

Source: the GGUF specification (ggml/docs/gguf.md), and what llama.cpp's graphs read (src/models/phi3.cpp, llama.cpp).
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.artifact.array_file import ArrayFile
from builders.artifact.prefetch import prefetched
from builders.checkpoint import TensorSource
from builders.conversion import BuildRequest, Conversion, require_range, weight_classes
from builders.gguf.encoding import encoded
from builders.gguf.known_templates import known_template_notes
from builders.gguf.tokenizer import GgufTokenizer, read_tokenizer
from registry.bundle.manifest import ExactContext
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from targets.architecture import Architecture
from targets.gguf_names import gguf_name
from targets.layouts import canonical_names
from targets.recipes import Recipe
from targets.storage import StoredWeight, padded
from targets.storage.gguf import ALIGNMENT, TYPES, fallback_notes, plan

MODEL_NAME = "model.gguf"
CONTEXT_STEP = 256  # llama.cpp rounds the context that it is opened with up to a multiple of this
_FILE_TYPE = {  # enum llama_ftype
    "gguf-f16": 1,
    "gguf-q8_0": 7,
    "gguf-q6_k": 18,
    "gguf-q5_k_m": 17,
    "gguf-q4_k_m": 15,
    "gguf-q4_0": 2,
    "gguf-iq4_nl": 25,
    "gguf-q3_k_m": 12,
}
# The same of a file with types of its own, by the type of most of its matrices: what llama.cpp guesses of a file that
# has none (llama-model-loader.cpp).
_MOSTLY = {
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q3_K": 12,
    "Q4_K": 15,
    "Q5_K": 17,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}


def convert(request: BuildRequest, folder: Path) -> Conversion:
    """Write `model.gguf` into a folder. Peak memory: two tensors in float32, and two encoded ones.

    Raises:
        CheckpointError: a tensor holds NaN, an infinity, or what float16 can't represent; the tokenizer is damaged.
        UnsupportedModelError: llama.cpp has no such tokenizer, or a number is out of float32's range.
    """
    architecture = request.checkpoint.architecture
    weights, canonical = plan(architecture, request.recipe), canonical_names(architecture)
    tokenizer = read_tokenizer(request.checkpoint)
    path = folder / MODEL_NAME
    _write_head(path, request, weights, tokenizer)
    head = path.read_bytes()
    path.unlink()  # gguf's: ours is written past the page cache
    done, total = 0, sum(weight.bytes for weight in weights)
    reads = (partial(read_for_llama_cpp, request.source, architecture, weight.name) for weight in weights)
    with (
        ArrayFile(path, ALIGNMENT, request.phases, head=head, pads_end=True) as data,
        closing(prefetched(reads, threads=1)) as tensors,
    ):
        for weight, values in zip(weights, tensors, strict=True):
            request.report_written(done, total)
            data.append([_encoded(request, weight, canonical[weight.name], values)])
            done += weight.bytes
            del values  # released before another read begins
        data.append(list(_rope_factors(architecture).values()))
    request.report_written(total, total)
    return Conversion(
        weights=weight_classes(weights),
        exact_context_length=exact_context_length(architecture, request.context_length),
        digests={MODEL_NAME: data.digest},
        exact_contexts=exact_contexts(architecture, request.context_length),
        tools={name: version(name) for name in ("gguf", "llama-cpp-python", "numpy", "numba")},
        notes=(
            *fallback_notes(architecture, request.recipe),
            *_context_notes(architecture, request.context_length),
            *tokenizer.notes,
            *known_template_notes(request.checkpoint),
        ),
    )


def artifact_sizes(request: BuildRequest) -> dict[str, int]:
    """Return the exact bytes of the file that `convert` would write, by its name. No weight is read."""
    architecture = request.checkpoint.architecture
    weights = plan(architecture, request.recipe)
    with temporary_folder("phipack-head") as folder:
        path = folder / MODEL_NAME
        with disk_errors(path):
            _write_head(path, request, weights, read_tokenizer(request.checkpoint))
            size = path.stat().st_size
    # Data starts at a multiple of the alignment, and so does what follows each tensor.
    sizes = [size, *(weight.bytes for weight in weights)]
    sizes += [factors.nbytes for factors in _rope_factors(architecture).values()]
    return {MODEL_NAME: sum(padded(part, ALIGNMENT) for part in sizes)}


def _write_head(path: Path, request: BuildRequest, weights: tuple[StoredWeight, ...], tokenizer: GgufTokenizer) -> None:
    """Write everything before the tensors' data."""
    import gguf

    architecture = request.checkpoint.architecture
    writer = gguf.GGUFWriter(path, architecture.family)
    try:
        _add_parameters(writer, request)
        writer.add_file_type(_file_type(request.recipe, weights))
        writer.add_quantization_version(2)  # GGML_QNT_VERSION
        tokenizer.add_to(writer)
        if request.checkpoint.chat_template is not None:
            writer.add_chat_template(request.checkpoint.chat_template)
        for weight in weights:
            _declare(writer, gguf_name(weight.name), weight)
        for name, values in _rope_factors(architecture).items():
            writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _encoded(
    request: BuildRequest, weight: StoredWeight, canonical: str, values: NDArray[np.float32]
) -> NDArray[np.uint8]:
    with request.phases.phase("quantize" if request.recipe.bits < 16 else "transform", values.nbytes):
        statistics = None if request.statistics is None else request.statistics.of(canonical)
        return encoded(values, TYPES[weight.storage], statistics, name=weight.name)


def read_for_llama_cpp(source: TensorSource, architecture: Architecture, name: str) -> NDArray[np.float32]:
    """Read a stored tensor, its rows in the order that llama.cpp wants.

    Its llama rotates rows 2i and 2i + 1 of a head together, the checkpoint rows i and d/2 + i.
    """
    values = source.stored_tensor(name)
    if architecture.family != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    halves = values.reshape(-1, 2, architecture.head_dim // 2, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def exact_context_length(architecture: Architecture, context_length: int) -> int:
    """Return the longest sequence for which llama.cpp computes what the checkpoint does: it ignores sliding windows."""
    contexts = _longrope_contexts(architecture, context_length)
    exact = 0 if contexts else context_length
    for each in contexts:
        if each.first == exact + 1:  # an edge that is no multiple of the step leaves a gap before the next one
            exact = each.last
    window = architecture.effective_window
    return exact if window is None else min(exact, window)


def exact_contexts(architecture: Architecture, context_length: int) -> tuple[ExactContext, ...]:
    """Return for how many tokens llama.cpp must be opened to be exact: it chooses longrope's factors by that alone.

    Empty where it does not matter: no longrope, or a context that stays below the edge. Past a sliding window it is not
    exact, however it is opened.
    """
    window = architecture.effective_window or context_length
    found = _longrope_contexts(architecture, context_length)
    return tuple(each.model_copy(update={"last": min(each.last, window)}) for each in found if each.first <= window)


def _longrope_contexts(architecture: Architecture, context_length: int) -> list[ExactContext]:
    """Return the same for a model without a window."""
    rope = architecture.longrope
    if rope is None or _rounded(context_length) <= rope.original_context:
        return []
    edge, below = rope.original_context, rope.original_context // CONTEXT_STEP * CONTEXT_STEP
    short = [ExactContext(open_with=below, first=1, last=below)] if below else []
    if context_length <= edge:
        return short
    return [*short, ExactContext(open_with=context_length, first=edge + 1, last=context_length)]


def _rounded(context_length: int) -> int:
    """Return the context that llama.cpp opens when asked for this one."""
    return math.ceil(context_length / CONTEXT_STEP) * CONTEXT_STEP


def _context_notes(architecture: Architecture, context_length: int) -> tuple[str, ...]:
    notes = []
    window = architecture.effective_window
    if window is not None and window < context_length:
        notes.append(f"llama.cpp ignores the sliding window of {window}: exact up to {window} tokens")
    if contexts := exact_contexts(architecture, context_length):
        how = ", ".join(f"{each.open_with} for sequences of {each.first} to {each.last}" for each in contexts)
        notes.append(
            "llama.cpp takes longrope's factors by the context that it is opened with, not by the text: open it with "
            f"{how} tokens, and read a sequence that outgrows its context again in the next"
        )
    return tuple(notes)


def _add_parameters(writer: Any, request: BuildRequest) -> None:
    """Write the keys that llama.cpp reads of the architecture.

    `general.name` is left out: with "phi3" in it, llama.cpp applies Phi-3's special-token rules to any vocabulary.
    """
    architecture, rope = request.checkpoint.architecture, request.checkpoint.architecture.longrope
    require_range(request.checkpoint, _stored_numbers(architecture), np.float32)
    writer.add_context_length(architecture.context_length)
    writer.add_embedding_length(architecture.hidden_size)
    writer.add_feed_forward_length(architecture.intermediate_size)
    writer.add_block_count(architecture.layer_count)
    writer.add_head_count(architecture.head_count)
    writer.add_head_count_kv(architecture.kv_head_count)
    writer.add_layer_norm_rms_eps(architecture.norm_epsilon)
    writer.add_rope_dimension_count(architecture.rotary_dim)
    writer.add_rope_freq_base(architecture.rope_theta)
    if architecture.head_dim * architecture.head_count != architecture.hidden_size:
        writer.add_key_length(architecture.head_dim)
        writer.add_value_length(architecture.head_dim)
    if architecture.family == "phi3":
        writer.add_rope_scaling_orig_ctx_len(rope.original_context if rope else architecture.context_length)
        writer.add_sliding_window(architecture.sliding_window or 0)
    if rope is not None:  # one for both sides: only Phi-3-small has two, and llama.cpp has no graph for it
        writer.add_rope_scaling_attn_factors(rope.short_attention_factor)


def _stored_numbers(architecture: Architecture) -> dict[str, float]:
    """Return the numbers of the rope and the norms that a file holds in float32, by name."""
    found = {"rope_theta": architecture.rope_theta, "rms_norm_eps": architecture.norm_epsilon}
    rope = architecture.longrope
    if rope is not None:
        found |= {f"short factor {place}": factor for place, factor in enumerate(rope.short)}
        found |= {f"long factor {place}": factor for place, factor in enumerate(rope.long)}
        found["longrope's factor of attention"] = rope.short_attention_factor
    return found


def _file_type(recipe: Recipe, weights: tuple[StoredWeight, ...]) -> int:
    if not recipe.types:
        return _FILE_TYPE[recipe.name]
    counts = Counter(weight.storage for weight in weights if len(weight.shape) == 2)
    return _MOSTLY[counts.most_common(1)[0][0]]


def _rope_factors(architecture: Architecture) -> dict[str, NDArray[np.float32]]:
    rope = architecture.longrope
    if rope is None:
        return {}
    return {
        "rope_factors_long.weight": np.asarray(rope.long, dtype=np.float32),
        "rope_factors_short.weight": np.asarray(rope.short, dtype=np.float32),
    }


def _declare(writer: Any, name: str, weight: StoredWeight) -> None:
    import gguf

    kind = TYPES[weight.storage]
    dtype = np.dtype(np.float32 if kind.name == "F32" else np.float16)  # ignored where raw_dtype is given
    writer.add_tensor_info(name, weight.shape, dtype, weight.bytes, raw_dtype=gguf.GGMLQuantizationType(kind.number))
