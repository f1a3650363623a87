"""What a folder is, before anything in it is read: a checkpoint, or one of the things that are mistaken for one.

    FOLDER/
      config.json                      the model
      model.safetensors, or an index and its shards: see `weight_files.py`
      tokenizer.json …                 see `checkpoint.py`

Refused here: a bundle, an adapter, the root of the hub's cache, a link whose file is gone, a git-lfs pointer in place
of a file, and a name in another case. Subfolders (`original/`, `onnx/`) are never looked into, as in transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from registry.bundle.manifest import MANIFEST_NAME
from targets.errors import CheckpointError
from targets.stated_path import fix_for
from targets.strict_json import parse_json

ADAPTER_CONFIG = "adapter_config.json"
# Files that may decide what is built. Any other broken link or pointer in the folder is nobody's loss.
_DECIDING = (".json", ".safetensors", ".model", ".jinja", ".tiktoken", ".txt")
_EXACT_NAMES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024  # a pointer is shorter, by its specification


def check_folder(folder: Path) -> None:
    """Check that a folder is a checkpoint whose files are all there.

    Raises:
        CheckpointError: it is something else, or a file of it is not there or only a pointer.
    """
    if not folder.is_dir():
        fix = fix_for(folder, "name the folder of a Hugging Face checkpoint")
        raise CheckpointError(f"{folder} is not a folder", fix=fix)
    entries = sorted(folder.iterdir())
    _refuse_cache_root(folder, entries)
    _refuse_bundle(folder, entries)
    deciding = [path for path in entries if path.suffix.lower() in _DECIDING]
    for path in deciding:
        if path.is_symlink() and not path.exists():
            raise CheckpointError(
                f"{path} is a link to {path.readlink()}, which is not there",
                fix="download the checkpoint again (hf download), so that the cache has the file; or copy the files",
            )
        refuse_lfs_pointer(path)
    _refuse_adapter(folder, entries)
    _refuse_other_case(folder, entries)


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the small text that git keeps in place of a large file. Raises `CheckpointError`."""
    if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
        return
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_POINTER))
    except OSError:  # its reader reports that
        return
    if start == _POINTER:
        raise CheckpointError(
            f"{path} is a git-lfs pointer: the repository was cloned without its large files",
            fix="run git lfs pull in the repository, or download the checkpoint with hf download",
        )


def _refuse_bundle(folder: Path, entries: list[Path]) -> None:
    names = {path.name for path in entries}
    if MANIFEST_NAME in names and "config.json" not in names:
        raise CheckpointError(
            f"{folder} is a bundle, which was built from a checkpoint",
            fix="name the checkpoint that it was built from; phipack inspect shows what a bundle is",
        )


def _refuse_cache_root(folder: Path, entries: list[Path]) -> None:
    if not {"blobs", "snapshots"} <= {path.name for path in entries}:
        return
    snapshots = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    raise CheckpointError(
        f"{folder} is the hub's cache of a model; its checkpoints are in snapshots/",
        fix=f"use {' or '.join(map(str, snapshots))}" if snapshots else "download the model with hf download",
    )


def _refuse_adapter(folder: Path, entries: list[Path]) -> None:
    files = [path.name for path in entries if path.name == ADAPTER_CONFIG or path.name.startswith("adapter_model.")]
    if not files:
        return
    base = _base_of(folder / ADAPTER_CONFIG)
    if any(
        path.name.endswith((".safetensors", ".safetensors.index.json")) and path.name not in files for path in entries
    ):
        raise CheckpointError(
            f"{folder} holds a whole model and an adapter ({', '.join(files)}): transformers with peft applies the "
            "adapter, without peft it does not",
            fix="move the adapter's files into a folder of their own, and build with --adapter FOLDER to apply it",
        )
    _refuse_bare_adapter(folder, base)


def _refuse_bare_adapter(folder: Path, base: str | None) -> NoReturn:
    of = f"of {base}" if base else "of a model that its adapter_config.json does not name"
    raise CheckpointError(
        f"{folder} is an adapter (LoRA) {of}, not a whole model",
        fix=f"build the base with it: phipack build BASE --adapter {folder}, where BASE is the folder of "
        f"{base or 'the base'}; or merge it with peft: merge_and_unload(), then save_pretrained",
    )


def _base_of(config: Path) -> str | None:
    """Return the base that an adapter's config names, or None if it can't be known."""
    try:
        content = parse_json(config.read_bytes(), ours=False)
    except (OSError, ValueError):
        return None
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    return base if isinstance(base, str) and base else None


def _refuse_other_case(folder: Path, entries: list[Path]) -> None:
    names = {path.name for path in entries}
    by_lower = {name.lower(): name for name in names}
    for exact in _EXACT_NAMES:
        found = by_lower.get(exact)
        if found is not None and exact not in names:
            raise CheckpointError(
                f"{folder}: {found} is not read: the name must be {exact}", fix=f"rename {found} to {exact}"
            )
