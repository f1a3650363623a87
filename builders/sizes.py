"""How large a bundle will be, to the byte, before it is built."""

from __future__ import annotations

from builders.build import FORMATS
from builders.conversion import BuildRequest
from builders.tokenizer import bundled_tokenizer


def bundle_sizes(request: BuildRequest) -> dict[str, int]:
    """Return the bytes of each file that the bundle will list in its manifest, by path. No weight is read.

    Raises:
        CheckpointError: the tokenizer is damaged.
        UnsupportedModelError: the recipe can't build the checkpoint.
    """
    kind = request.recipe.format
    sizes = {name: len(content) for name, content in bundled_tokenizer(request.checkpoint, kind).files.items()}
    return sizes | FORMATS[kind]().artifact_sizes(request)
