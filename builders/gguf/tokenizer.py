"""A checkpoint's tokenizer, special ids and stop ids as llama.cpp reads them.

`tokenizer.json` defines what the tokenizer does; `tokenizer.model`, where there is one too, has SentencePiece's scores.
Where there is only a file of tiktoken's ranks, it is converted to a `tokenizer.json` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builders.checkpoint import Checkpoint
from builders.gguf.byte_level import byte_level_vocabulary
from builders.gguf.pieces import pieces_of_json, pieces_of_model, pieces_vocabulary, space_of_json
from builders.gguf.tokenizer_json import (
    AddedToken,
    TokenizerJson,
    read_added_tokens,
    read_kind,
    read_tokenizer_json,
    steps,
)
from builders.gguf.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, lay_out
from builders.tokenizer.tiktoken import tiktoken_file, tokenizer_json_of_ranks
from targets.errors import UnsupportedModelError

# Tokens at which llama.cpp ends an answer because of their text (llama-vocab.cpp, special_eog_ids).
_KNOWN_ENDS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<|end_of_text|>")
)
# With "phi-3" in general.name, llama.cpp lets every special token but these swallow the whitespace after it, and needs
# them and </s> to exist.
_NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True)
class GgufTokenizer:
    """A vocabulary, and what else a GGUF file says of its tokenizer. `ids`: by the GGUF key's name, such as `eos`."""

    vocabulary: Vocabulary
    ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    model_name: str | None
    notes: tuple[str, ...]

    def add_to(self, writer: Any) -> None:
        """Write the keys into a `gguf.GGUFWriter`."""
        if self.model_name is not None:
            writer.add_name(self.model_name)
        self.vocabulary.add_to(writer)
        for name, token in self.ids.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)


def read_tokenizer(checkpoint: Checkpoint) -> GgufTokenizer:
    """Read a checkpoint's tokenizer.

    Raises:
        CheckpointError: it can't be read, or has ids past the vocabulary.
        UnsupportedModelError: llama.cpp has no such tokenizer, or ranks are of an encoding that is not known.
    """
    file = _tokenizer_json(checkpoint)
    added = (file.added if file else None) or _added_of_config(checkpoint)
    vocabulary = _vocabulary(checkpoint, file, added)
    ids, stop_notes = _special_ids(checkpoint, vocabulary)
    add_bos, add_eos = _added_around(checkpoint, file, vocabulary, ids)
    model_name, strip_notes = _strips(vocabulary, added, normalizes=file is not None and file.normalizer is not None)
    notes = (*vocabulary.notes, *stop_notes, *strip_notes)
    return GgufTokenizer(vocabulary, ids, add_bos, add_eos, model_name, notes)


def _tokenizer_json(checkpoint: Checkpoint) -> TokenizerJson | None:
    """Return `tokenizer.json`, or the one converted from ranks; None where there is only SentencePiece's file."""
    files = checkpoint.tokenizer_files
    if path := files.get("tokenizer.json"):
        if (kind := read_kind(path)) != "BPE":
            raise UnsupportedModelError(
                f"{path}: a {kind} tokenizer; llama.cpp bundles are built with BPE",
                fix="build an ONNX or Core ML recipe, such as onnx-int4: their apps use tokenizer.json itself",
            )
        return read_tokenizer_json(path)
    ranks = tiktoken_file(checkpoint.tokenizer_folder)
    if "tokenizer.model" in files or ranks is None:
        return None
    return TokenizerJson.model_validate_json(tokenizer_json_of_ranks(ranks, checkpoint.tokenizer_config))


def _added_of_config(checkpoint: Checkpoint) -> dict[int, AddedToken]:
    entries = checkpoint.tokenizer_config.get("added_tokens_decoder", {})
    return read_added_tokens(entries, source=f"{checkpoint.tokenizer_folder}/tokenizer_config.json")


def _vocabulary(checkpoint: Checkpoint, file: TokenizerJson | None, added: dict[int, AddedToken]) -> Vocabulary:
    size, files = checkpoint.architecture.vocabulary_size, checkpoint.tokenizer_files
    if file is not None and not file.model.byte_fallback:
        return byte_level_vocabulary(file, size, source=str(files.get("tokenizer.json", checkpoint.tokenizer_folder)))
    model = files.get("tokenizer.model")
    source = str(model if file is None else files["tokenizer.json"])
    notes: tuple[str, ...] = ()
    if model is not None:
        rows, space = pieces_of_model(model)
        space = space and checkpoint.tokenizer_config.get("add_prefix_space") is not False
    if file is not None:
        space, notes = space_of_json(file, source=source)
        if model is None:
            rows = pieces_of_json(file)
    return pieces_vocabulary(lay_out(rows, added, size, source=source), space, notes, source=source)


def _special_ids(checkpoint: Checkpoint, vocabulary: Vocabulary) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the ids of BOS, EOS, padding, unknown and other stops, and notes on what llama.cpp can't express."""
    ids_of = {token: number for number, token in enumerate(vocabulary.tokens)}
    ids = {}
    for key, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        content = _content(checkpoint.tokenizer_config.get(f"{key}_token"))
        number = checkpoint.config.get(f"{key}_token_id")
        if content in ids_of:
            ids[name] = ids_of[content]
        elif isinstance(number, int) and 0 <= number < len(vocabulary.tokens):
            ids[name] = number
    stops = checkpoint.stop_token_ids
    if "eos" not in ids and stops:
        ids["eos"] = stops[0]
    unknown_to_it = [n for n in stops if n != ids.get("eos") and vocabulary.tokens[n] not in _KNOWN_ENDS]
    turn_ends = [n for n in stops if n != ids.get("eos") and vocabulary.tokens[n] in _KNOWN_ENDS]
    if turn_ends:
        ids["eot"] = turn_ends[0]
    # In addition to EOS, a file can name the end of a turn and of a message: used for any other stop ids.
    for name in ("eot", "eom"):
        if name not in ids and unknown_to_it:
            ids[name] = unknown_to_it.pop(0)
    if "eos" not in ids:
        return ids, ("the checkpoint names no end-of-sequence token; llama.cpp takes a default id for it",)
    if not unknown_to_it:
        return ids, ()
    left = ", ".join(f"{number} ({vocabulary.tokens[number]})" for number in unknown_to_it)
    return ids, (f"llama.cpp itself does not stop at {left}: the app must, by the manifest's stop ids",)


def _added_around(
    checkpoint: Checkpoint, file: TokenizerJson | None, vocabulary: Vocabulary, ids: dict[str, int]
) -> tuple[bool, bool]:
    """Return whether the tokenizer itself puts BOS before a text, and EOS after it.

    transformers' Llama tokenizers obey tokenizer_config.json, whatever tokenizer.json says; others obey the latter.
    """
    config = checkpoint.tokenizer_config
    if file is None or str(config.get("tokenizer_class", "")).startswith("Llama"):
        bos, eos = config.get("add_bos_token", True) is True, config.get("add_eos_token", False) is True
        return bos and "bos" in ids, eos and "eos" in ids
    before: list[str | None] = []
    after: list[str | None] = []
    for step in steps(file.post_processor, "processors"):
        match step:
            case {"type": "ByteLevel"}:
                pass
            case {"type": "TemplateProcessing", "single": list(single)}:
                names = [_special_piece(piece) for piece in single]
                middle = names.index(None) if None in names else len(names)
                before, after = names[:middle], names[middle + 1 :]
            case _:
                raise UnsupportedModelError(
                    f"{checkpoint.tokenizer_folder}: tokenizer.json: llama.cpp has no post-processor "
                    f"{step.get('type')!r}",
                    fix="build an ONNX or Core ML recipe, such as onnx-int4: their apps use tokenizer.json itself",
                )
    tokens = {name: vocabulary.tokens[number] for name, number in ids.items()}
    if before not in ([], [tokens.get("bos")]) or after not in ([], [tokens.get("eos")]):
        raise UnsupportedModelError(
            f"{checkpoint.tokenizer_folder}: the tokenizer puts {before} before a text and {after} after it; "
            f"llama.cpp can put BOS ({tokens.get('bos')!r}) and EOS ({tokens.get('eos')!r})",
            fix="set bos_token and eos_token in tokenizer_config.json to these tokens",
        )
    return bool(before), bool(after)


def _strips(
    vocabulary: Vocabulary, added: dict[int, AddedToken], *, normalizes: bool
) -> tuple[str | None, tuple[str, ...]]:
    """Return the `general.name` by which llama.cpp lets tokens swallow whitespace, or a note where none is right."""
    stripping = {token.content for token in added.values() if token.rstrip}
    odd = {
        token.content
        for token in added.values()
        if token.lstrip or token.single_word or (token.normalized and normalizes)
    }
    if not stripping and not odd:
        return None, ()
    special = {
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    }
    if not odd and set(_NOT_STRIPPING) <= special and stripping == (special | {"</s>"}) - set(_NOT_STRIPPING):
        return "phi-3", ()
    named = sorted(stripping | odd)
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    note = f"llama.cpp finds {', '.join(named[:3])}{more} by rules of its own (whitespace around them, word borders)"
    return None, (f"{note}: tokenize with the bundle's tokenizer files",)


def _special_piece(piece: object) -> str | None:
    """Return the token that a template's piece means; None where it means the text."""
    match piece:
        case {"SpecialToken": {"id": str(name)}}:
            return name
    return None


def _content(token: object) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
