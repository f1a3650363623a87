"""The tokenizer files of a bundle: one `tokenizer.json`, its config and the chat template, the same for every format.

    tokenizer.json          what transformers loads from the checkpoint's folder
    tokenizer_config.json   names of the special tokens, and the chat template again, for runtimes that look there
    chat_template.jinja     where the checkpoint has one

The checkpoint's other files (tokenizer.model, added_tokens.json, vocab.json …) stay behind: one truth each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from builders.checkpoint import CHAT_TEMPLATE_NAME, Checkpoint
from builders.checkpoint.adapter import MergedCheckpoint
from builders.tokenizer.loading import Tokenizer, tokenizer_of
from builders.tokenizer.probes import unknown_flags_note
from builders.tokenizer.stop_ids import named_id, read_stop_ids
from builders.tokenizer.unread import notes_on_unread_files
from targets.errors import CheckpointError
from targets.recipes import Format


@dataclass(frozen=True)
class BundledTokenizer:
    """The files by name, the ids that end an answer, and notes for readers of the manifest."""

    files: dict[str, bytes]
    stop_ids: tuple[int, ...]
    notes: tuple[str, ...]


# Flags of added tokens that a format's runtime does not know: onnxruntime-extensions and swift-transformers strip
# whitespace as the flags say, but find a token inside a word, and before anything is normalized. For llama.cpp, see
# builders/gguf.
_UNKNOWN_FLAGS: dict[Format, tuple[str, ...]] = {
    "onnx": ("single_word", "normalized"),
    "coreml": ("single_word", "normalized"),
    "gguf": (),
}


def bundled_tokenizer(checkpoint: Checkpoint, kind: Format) -> BundledTokenizer:
    """Return what a bundle has of its tokenizer: the same bytes each time. Nothing is written.

    Raises:
        CheckpointError: the tokenizer can't be read, has an id past the vocabulary, or an id that a config names is
            past it; the chat template can't be rendered; or the tokenizer belongs to another base than the adapter's.
        UnsupportedModelError: it does what no tokenizer.json can say, or a file of ranks whose encoding is not known.
    """
    templates = _template_notes(checkpoint)  # first: an error in a template's place is found by its own name
    if isinstance(checkpoint, MergedCheckpoint) and checkpoint.adapter.tokenizer_files:
        _refuse_moved_tokens(checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    _refuse_ids_past_vocabulary(checkpoint, tokenizer.vocabulary())
    for key in ("bos_token_id", "pad_token_id"):
        named_id(checkpoint, key)  # a wrong one is refused before anything is built
    flags = unknown_flags_note(checkpoint, tokenizer, _UNKNOWN_FLAGS[kind], f"the runtime of {kind} bundles")
    stop = read_stop_ids(checkpoint, tokenizer)
    notes = (*stop.notes, *flags, *templates, *notes_on_unread_files(checkpoint, tokenizer))
    return BundledTokenizer(tokenizer_folder(checkpoint, tokenizer), stop.ids, notes)


def tokenizer_folder(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files by name."""
    files = {"tokenizer.json": tokenizer.to_json(), "tokenizer_config.json": _config(checkpoint, tokenizer)}
    if checkpoint.chat_template is not None:
        files[CHAT_TEMPLATE_NAME] = checkpoint.chat_template.encode()
    return files


def _config(checkpoint: Checkpoint, tokenizer: Tokenizer) -> bytes:
    """Return a `tokenizer_config.json` by which every reader obeys tokenizer.json.

    With a class such as LlamaTokenizer, transformers 5 and swift-transformers rebuild parts of it by their own rules.
    swift-transformers cleans up spaces unless it is set to false; onnxruntime-genai reads only one template, a text.
    """
    longest = checkpoint.tokenizer_config.get("model_max_length")
    before, after = tokenizer.put_around()
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict(sorted(tokenizer.special_tokens.items())),
        "add_bos_token": bool(before),
        "add_eos_token": bool(after),
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(longest, int) and not isinstance(longest, bool):
        config["model_max_length"] = longest
    if checkpoint.chat_template is not None:
        config["chat_template"] = checkpoint.chat_template
    return (json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _template_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    others = checkpoint.other_chat_templates
    return (f"the checkpoint's chat templates {', '.join(others)} are not in the bundle: it has the default",) * bool(
        others
    )


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
    known = tokenizer_of(checkpoint.base).vocabulary()
    for token, number in tokenizer_of(checkpoint).vocabulary().items():
        if known.get(token, number) != number:
            raise CheckpointError(
                f"{checkpoint.adapter.path}: the tokenizer has id {number} for {token!r}, the base's {known[token]}",
                fix="the tokenizer or the adapter belongs to another base: remove the tokenizer's files from the "
                "adapter's folder if the base's are right",
            )
