"""Which files of two bundles are the same, by digests."""

from __future__ import annotations

from registry.bundle.manifest import Manifest

_WEIGHTS = (".gguf", ".onnx.data", "weight.bin")  # ends of the names of files that hold weights
_NO_MODEL = (".json", ".jinja", ".txt", ".md", "tokenizer.model")  # and of those that hold neither weights nor graph


def files_that_differ(old: Manifest, new: Manifest) -> list[str]:
    """Return the files that only one of the two has, or that are not the same in both."""
    before, after = ({entry.path: entry.sha256 for entry in side.files} for side in (old, new))
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def same_weights(old: Manifest, new: Manifest) -> bool:
    """Return whether every file of weights is the same in both. In GGUF it has the configuration, too."""
    return not any(path.endswith(_WEIGHTS) for path in files_that_differ(old, new))


def same_model(old: Manifest, new: Manifest) -> bool:
    """Return whether weights and graph are the same in both: what differs is the tokenizer, the template or a text."""
    return all(path.endswith(_NO_MODEL) for path in files_that_differ(old, new))
