"""A checkpoint's tokenizer, special ids and stop ids as llama.cpp reads them, made from one `tokenizer.json`.

Whatever files the checkpoint has, `builders/tokenizer/` makes that one of them, as transformers loads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builders.checkpoint import Checkpoint
from builders.gguf.byte_level import byte_level_vocabulary
from builders.gguf.pieces import pieces_of_json, pieces_vocabulary, space_of_json
from builders.gguf.tokenizer_json import TokenizerJson, read_tokenizer_json
from builders.gguf.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, lay_out
from builders.tokenizer import Tokenizer, stop_token_ids, tokenizer_of
from builders.tokenizer.probes import probe_conversations, unknown_flags_note
from targets.errors import UnsupportedModelError

# Tokens at which llama.cpp ends an answer because of their text (llama-vocab.cpp, special_eog_ids).
_KNOWN_ENDS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<|end_of_text|>")
)
UNKNOWN_STOPS = "llama.cpp itself does not stop at"  # how the note on stop ids begins that a file can't name
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
    tokenizer, source = tokenizer_of(checkpoint), f"{checkpoint.tokenizer_folder}: the tokenizer"
    file = read_tokenizer_json(tokenizer.to_json(), source=source)
    vocabulary = _vocabulary(checkpoint, tokenizer, file, source)
    ids, stop_notes = _special_ids(checkpoint, tokenizer, vocabulary)
    add_bos, add_eos = _put_around(tokenizer, vocabulary, ids, source)
    model_name, strip_notes = _strips(checkpoint, tokenizer, vocabulary, file)
    notes = (*vocabulary.notes, *stop_notes, *strip_notes)
    return GgufTokenizer(vocabulary, ids, add_bos, add_eos, model_name, notes)


def _vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer, file: TokenizerJson, source: str) -> Vocabulary:
    size = checkpoint.architecture.vocabulary_size
    if not file.model.byte_fallback:
        return byte_level_vocabulary(file, size, source=source)
    starts_with_token = any(
        tokenizer.encode(text)[0] in tokenizer.added_tokens() for text in probe_conversations(checkpoint, tokenizer)
    )
    space, notes = space_of_json(file, starts_with_token=starts_with_token, source=source)
    rows = lay_out(pieces_of_json(file), file.added, size, source=source)
    return pieces_vocabulary(rows, space, notes, source=source)


def _special_ids(
    checkpoint: Checkpoint, tokenizer: Tokenizer, vocabulary: Vocabulary
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the ids of BOS, EOS, padding, unknown and other stops, and notes on what llama.cpp can't express."""
    ids_of = {token: number for number, token in enumerate(vocabulary.tokens)}
    ids = {}
    for key, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        content = tokenizer.special_tokens.get(f"{key}_token")
        number = checkpoint.config.get(f"{key}_token_id")
        if content in ids_of:
            ids[name] = ids_of[content]
        elif isinstance(number, int) and 0 <= number < len(vocabulary.tokens):
            ids[name] = number
    stops = stop_token_ids(checkpoint)
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
    return ids, (f"{UNKNOWN_STOPS} {left}: the app must, by the manifest's stop ids",)


def _put_around(tokenizer: Tokenizer, vocabulary: Vocabulary, ids: dict[str, int], source: str) -> tuple[bool, bool]:
    """Return whether the tokenizer itself puts BOS before a text, and EOS after it."""
    before, after = tokenizer.put_around()
    bos, eos = ids.get("bos"), ids.get("eos")
    if before not in ([], [bos]) or after not in ([], [eos]):
        found, can = ([vocabulary.tokens[n] for n in each if n is not None] for each in (before + after, (bos, eos)))
        raise UnsupportedModelError(
            f"{source} puts {found} around a text; llama.cpp can put BOS before it and EOS after it, here {can}",
            fix="set bos_token and eos_token in tokenizer_config.json to these tokens",
        )
    return bool(before), bool(after)


def _strips(
    checkpoint: Checkpoint, tokenizer: Tokenizer, vocabulary: Vocabulary, file: TokenizerJson
) -> tuple[str | None, tuple[str, ...]]:
    """Return the `general.name` by which llama.cpp lets tokens swallow whitespace, or a note where none is right."""
    added = file.added.values()
    stripping = {token.content for token in added if token.rstrip}
    odd = any(token.lstrip or token.single_word or (token.normalized and file.normalizer) for token in added)
    special = {
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    }
    if not odd and set(_NOT_STRIPPING) <= special and stripping == (special | {"</s>"}) - set(_NOT_STRIPPING):
        return "phi-3", ()
    flags = ("lstrip", "rstrip", "single_word", *(("normalized",) if file.normalizer else ()))
    return None, unknown_flags_note(checkpoint, tokenizer, flags, "llama.cpp")
