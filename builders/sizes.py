"""How large a bundle will be, to the byte, before anything of it is built."""

from __future__ import annotations

from collections.abc import Callable

from builders.build import CHAT_TEMPLATE_NAME, BuildRequest
from builders.tokenizer import bundled_files
from targets.recipes import Format


def _gguf_sizes(request: BuildRequest) -> dict[str, int]:
    from builders.gguf import artifact_sizes

    return artifact_sizes(request)


def _onnx_sizes(request: BuildRequest) -> dict[str, int]:
    from builders.onnx import artifact_sizes

    return artifact_sizes(request)


def _coreml_sizes(request: BuildRequest) -> dict[str, int]:
    from builders.coreml import artifact_sizes

    return artifact_sizes(request)


SIZES: dict[Format, Callable[[BuildRequest], dict[str, int]]] = {
    "gguf": _gguf_sizes,
    "onnx": _onnx_sizes,
    "coreml": _coreml_sizes,
}


def bundle_sizes(request: BuildRequest) -> dict[str, int]:
    """Give the bytes of each file that the bundle will list in its manifest, by path. No weight is read.

    Raises:
        CheckpointError: the tokenizer is damaged.
        UnsupportedModelError: the recipe can't build the checkpoint.
    """
    checkpoint, kind = request.checkpoint, request.recipe.format
    sizes = {name: len(content) for name, content in bundled_files(checkpoint, kind).items()}
    if checkpoint.chat_template is not None:
        sizes[CHAT_TEMPLATE_NAME] = len(checkpoint.chat_template.encode())
    return sizes | SIZES[kind](request)
