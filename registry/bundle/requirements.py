"""What a bundle needs to run, read from its files: operators, opsets, tensor types, pre-tokenizer, specification.

Never from the recipe's name: a converter that writes one more operator changes what is read here. No file has the type
of the KV cache, which the manifest alone states. The manifest's entry
`requires` is made from it, and `check_requirements` holds an entry to the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from registry.bundle.folder import Bundle
from registry.bundle.manifest import FileEntry, Manifest
from registry.formats.coreml_model import specification_version
from registry.formats.forwards import REPLACE_BUNDLE, Forwards
from registry.formats.gguf_header import GgufHeader, read_header
from registry.formats.onnx_graph import Node, read_model
from targets.errors import BundleError, FitError
from targets.runtimes.expected import cache_features
from targets.runtimes.offer import Offer, Shortfall, remedy, shortfalls
from targets.runtimes.requirement import Requires, covers
from targets.runtimes.table import requires, strictest, why
from targets.storage.gguf import TYPES

# Opens one of a bundle's files for reading from its start. Raises `PhipackError`.
Open = Callable[[FileEntry], BinaryIO]

_GENAI_CONFIG = "genai_config.json"
_CONFIG_BYTES_LIMIT = 1 << 20
_MICROSOFT = "com.microsoft"
_OUTSIDE_OPSETS = ("SimplifiedLayerNormalization",)  # onnxruntime has it in the standard domain, ONNX has not
_POSITION_IDS, _K_SCALE = 9, 12  # GroupQueryAttention's inputs (docs/ContribOperators.md in microsoft/onnxruntime)
_TYPE_NAMES = {kind.number: kind.name for kind in TYPES.values()}


def required_by(folder: Path, files: Iterable[FileEntry], opened_with: Iterable[str] = ()) -> Requires:
    """Return what the files of a bundle's folder need, and what the way in which it is opened needs (`cache_features`).

    Raises `BundleError` where a file can't be read.
    """
    found = features_of(files, partial(_open_in, folder)) | {*opened_with}
    try:
        return requires(found)
    except ValueError as error:  # a name that no operator, type or model has
        raise BundleError(f"{folder}: its files can't be what they say: {error}", fix=REPLACE_BUNDLE) from error


def features_of(files: Iterable[FileEntry], open_file: Open) -> set[str]:
    """Return the features that a bundle's files use. Raises `BundleError` where one is damaged."""
    found: set[str] = set()
    graph: set[str] = set()
    genai: str | None = None
    for entry in files:
        if entry.path.endswith(".gguf"):
            with open_file(entry) as stream:
                found |= _gguf(read_header(Forwards(stream, entry.path, entry.bytes), entry.path))
        elif entry.path.endswith(".onnx"):
            with open_file(entry) as stream:
                graph |= _onnx(stream, entry)
        elif entry.path.endswith(".mlmodel"):
            with open_file(entry) as stream:
                file = Forwards(stream, entry.path, entry.bytes)
                found.add(f"coreml/specification/{specification_version(file, entry.path, entry.bytes)}")
        elif entry.path == _GENAI_CONFIG:
            with open_file(entry) as stream:
                genai = _model_type(stream, entry)
    if genai is not None:
        graph.add(f"genai/model/{genai}")
        if graph & {"onnx/operator/GroupQueryAttention/positions", "onnx/operator/RotaryEmbedding"}:
            graph.add(f"genai/longrope/{genai}")
    return found | graph


def check_requirements(bundle: Bundle) -> None:
    """Compare the manifest's entry `requires` with the files; a manifest without one, of an older phipack, passes.

    Raises:
        BundleError: the files need more than the entry says, or it lists what they don't use; or one is damaged.
    """
    stated = bundle.manifest.requires
    if stated is None:
        return
    recipe = bundle.manifest.recipe
    found = required_by(bundle.path, bundle.manifest.files, cache_features(recipe.format, recipe.kv_cache))
    missing = sorted(set(found.features) - set(stated.features))
    extra = sorted(set(stated.features) - set(found.features))
    what = None
    if missing:
        what = f"does not list {missing[0]}, which its files use"
    elif extra:
        what = f"lists {extra[0]}, which its files don't use"
    elif not covers(stated.runtimes, found.runtimes):
        what = f"asks for {_listed(stated)}, and its files need {_listed(found)}"
    if what is not None:
        raise BundleError(
            f"{bundle.path}: the manifest's entry requires {what}", fix="build it again with this version of phipack"
        )


def require_runnable(manifest: Manifest, offer: Offer, os: str | None, source: str) -> None:
    """Refuse a bundle that an app with these runtimes can't run, before anything of it is downloaded.

    A manifest of an older phipack says nothing of it, and is not refused. This phipack's table counts where it knows
    more than the manifest's writer did. `os`: the app's; None where it is not known.

    Raises:
        FitError: the reason, with its source in the table, and what would help.
    """
    stated, bundle_format = manifest.requires, manifest.recipe.format
    if stated is None:
        return
    found = shortfalls(bundle_format, strictest(stated), offer, os)
    if found:
        problems = "; ".join(one.text + _sources(one, stated, offer, os) for one in found)
        raise FitError(f"{source}: the app can't run this bundle: {problems}", fix=remedy(bundle_format, found, os))


def _sources(one: Shortfall, stated: Requires, offer: Offer, os: str | None) -> str:
    """Return which features forbid the app's version, and where that is said, in brackets."""
    if one.need is None:
        return ""
    rows = why(one.need.runtime, stated.features, offer.versions[one.need.runtime], os)
    return f" ({'; '.join(f'{row.feature}: {row.source}' for row in rows)})" if rows else ""


def _listed(needed: Requires) -> str:
    return ", ".join(map(str, needed.runtimes)) or "no runtime"


def _onnx(stream: BinaryIO, entry: FileEntry) -> set[str]:
    model = read_model(Forwards(stream, entry.path, entry.bytes), entry.path, entry.bytes)
    found = {f"onnx/ir/{model.ir_version}", f"onnx/opset/{model.opsets.get('', 0)}"}
    for node in model.nodes:
        if node.domain or node.operator in _OUTSIDE_OPSETS:
            found.update(_operator(node))
    return found


def _operator(node: Node) -> Iterator[str]:
    """Yield an operator, and what of it this use needs."""
    prefix = "" if node.domain in ("", _MICROSOFT) else f"{node.domain}."
    name = f"onnx/operator/{prefix}{node.operator}"
    yield name
    if node.operator in ("MatMulNBits", "GatherBlockQuantized"):
        yield f"{name}/bits={node.integers.get('bits', 4)}"
    if node.operator in ("GroupQueryAttention", "SparseAttention") and node.integers.get("do_rotary"):
        yield f"{name}/rotary"
    if node.operator == "GroupQueryAttention":
        if node.integers.get("local_window_size", -1) > 0:
            yield f"{name}/window"
        if any(node.inputs[_POSITION_IDS : _POSITION_IDS + 1]):
            yield f"{name}/positions"
        if any(node.inputs[_K_SCALE : _K_SCALE + 1]):
            yield f"{name}/int{node.integers.get('kv_cache_bit_width', 8)}"


def _model_type(stream: BinaryIO, entry: FileEntry) -> str:
    """Return the type of model that onnxruntime-genai is to run."""
    raw = Forwards(stream, entry.path, entry.bytes).take(entry.bytes, _CONFIG_BYTES_LIMIT)
    try:
        return str(json.loads(raw)["model"]["type"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{entry.path}: no model type can be read: {error}", fix=REPLACE_BUNDLE) from error


def _gguf(header: GgufHeader) -> set[str]:
    keys, architecture = header.keys, str(header.keys.get("general.architecture"))
    names = {info.name for info in header.tensors}
    found = {f"gguf/version/{header.version}", f"gguf/architecture/{architecture}"}
    found |= {f"gguf/tensor/{_TYPE_NAMES.get(info.type_number, info.type_number)}" for info in header.tensors}
    if keys.get("tokenizer.ggml.model") == "gpt2":  # llama.cpp splits words for byte-level BPE alone
        found.add(f"gguf/pre/{keys.get('tokenizer.ggml.pre', 'none')}")
    if "rope_factors_long.weight" in names:
        found.add(f"gguf/rope_factors/{architecture}")
        rotated = keys.get(f"{architecture}.rope.dimension_count")
        if rotated != _head_dim(header, architecture):
            found.add(f"gguf/partial_rotary/{architecture}")
    if "output.weight" not in names:
        found.add(f"gguf/tied/{architecture}")
    if keys.get(f"{architecture}.attention.sliding_window") == 0:
        found.add(f"gguf/no_window/{architecture}")
    return found


def _head_dim(header: GgufHeader, architecture: str) -> int | None:
    keys = header.keys
    width, heads = keys.get(f"{architecture}.embedding_length"), keys.get(f"{architecture}.attention.head_count")
    if (stated := keys.get(f"{architecture}.attention.key_length")) is not None:
        return stated if isinstance(stated, int) else None
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None


def _open_in(folder: Path, entry: FileEntry) -> BinaryIO:
    path = folder / entry.path
    try:
        return path.open("rb")
    except OSError as error:
        raise BundleError(f"{path} can't be read: {error.strerror}", fix="build or fetch it again") from error
