"""The tokenizer files of a bundle, chat template included, with a `tokenizer.json` where its runtime needs one."""

from __future__ import annotations

import json
from typing import Any

from builders.checkpoint import CHAT_TEMPLATE_NAME, Checkpoint
from builders.checkpoint.adapter import MergedCheckpoint
from builders.tokenizer.loading import load_tokenizer
from builders.tokenizer.tiktoken import tiktoken_file
from targets.errors import CheckpointError
from targets.recipes import Format


def bundled_files(checkpoint: Checkpoint, kind: Format) -> dict[str, bytes]:
    """Return the files that go into a bundle, by name: the same bytes each time. Nothing is written.

    onnxruntime-genai and swift-transformers read only `tokenizer.json`: it is created where there is only
    SentencePiece's or tiktoken's file. A GGUF file contains its tokenizer.

    Raises:
        CheckpointError: the tokenizer can't be read, has an id past the vocabulary, or belongs to another base.
        UnsupportedModelError: a file of ranks whose encoding is not known.
    """
    if isinstance(checkpoint, MergedCheckpoint) and checkpoint.adapter.tokenizer_files:
        _refuse_moved_tokens(checkpoint)
    files = {name: path.read_bytes() for name, path in checkpoint.tokenizer_files.items()}
    if checkpoint.chat_template is not None:
        files[CHAT_TEMPLATE_NAME] = (
            checkpoint.chat_template.encode()
        )  # a file of its own, even where the checkpoint has it in tokenizer_config.json
    made = "tokenizer.json" not in files
    if made and kind == "gguf":
        return files  # the GGUF converter reads the tokenizer's model itself, and checks the ids
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
    _refuse_ids_past_vocabulary(checkpoint, tokenizer.vocabulary())
    if made:
        files["tokenizer.json"] = tokenizer.to_json()
        if "tokenizer.model" not in files and tiktoken_file(checkpoint.tokenizer_folder) is not None:
            files["tokenizer_config.json"] = _config_without_code(checkpoint.tokenizer_config)
    return files


def _refuse_ids_past_vocabulary(checkpoint: Checkpoint, vocabulary: dict[str, int]) -> None:
    size = checkpoint.architecture.vocabulary_size
    token, number = max(vocabulary.items(), key=lambda entry: entry[1], default=("", -1))
    if number >= size:
        raise CheckpointError(
            f"{checkpoint.tokenizer_folder}: the tokenizer's id {number} ({token!r}) is not in the vocabulary of "
            f"{size}",
            fix="the tokenizer and the weights belong to different models, or the embedding was not resized",
        )


def _refuse_moved_tokens(checkpoint: MergedCheckpoint) -> None:
    """Refuse an adapter's tokenizer that gives a token of the base another id. It may add tokens, and rename them."""
    known = load_tokenizer(checkpoint.base.tokenizer_folder).vocabulary()
    for token, number in load_tokenizer(checkpoint.adapter.path).vocabulary().items():
        if known.get(token, number) != number:
            raise CheckpointError(
                f"{checkpoint.adapter.path}: the tokenizer has id {number} for {token!r}, the base's {known[token]}",
                fix="the tokenizer or the adapter belongs to another base: remove the tokenizer's files from the "
                "adapter's folder if the base's are right",
            )


def _config_without_code(config: dict[str, Any]) -> bytes:
    """Return the config with a class that reads `tokenizer.json` in the place of the checkpoint's own code.

    Runtimes choose their tokenizer by the class's name.
    """
    named = {key: value for key, value in config.items() if key != "auto_map"}
    ends = {f"{key}_token": "<|endoftext|>" for key in ("bos", "eos", "pad")}
    named = ends | named | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return json.dumps(named, indent=2, ensure_ascii=False).encode()
