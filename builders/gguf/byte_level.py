"""Byte-level BPE (GPT-2's kind) as llama.cpp reads it: its own list of merges, and a pre-tokenizer known by name.

The name is derived from what the pre-tokenizer does, never guessed: a wrong one splits text elsewhere, silently.
"""

from __future__ import annotations

import json
from typing import Any

from builders.gguf.tokenizer_json import TokenizerJson, steps
from builders.gguf.vocabulary import Row, Vocabulary, lay_out
from targets.errors import UnsupportedModelError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K_NAME = "gpt-4o"
# Steps of the pre-tokenizer, and whether a word that is a token is used without merging → llama.cpp's name for it.
_PRE_TOKENIZERS: dict[tuple[object, ...], str] = {
    (("bytes after", _GPT2), False): "gpt-2",
    (("split", _GPT2), ("bytes",), False): "gpt-2",
    (("digits",), ("bytes after", _GPT2), False): "smollm",
    (("split", _CL100K), ("bytes",), True): "llama-bpe",
    (("split", _CL100K), ("bytes",), False): "dbrx",  # Phi-4's
    (("split", _O200K), ("bytes",), False): _O200K_NAME,  # Phi-4-mini's
}
# llama.cpp spells o200k so: a letter is upper case unless it is a-z, lower case unless A-Z; marks are no letters.
_NOTES = {
    _O200K_NAME: "llama.cpp's own tokenizer splits words with combining marks, or with capitals outside ASCII, "
    "elsewhere than tokenizer.json (evidence: runtime_tokens_share): tokenize with tokenizer.json where that matters"
}


def byte_level_vocabulary(file: TokenizerJson, size: int, *, source: str) -> Vocabulary:
    """Read a byte-level BPE tokenizer for an embedding of `size` rows.

    Raises:
        CheckpointError: an id lies past the embedding.
        UnsupportedModelError: llama.cpp has no such pre-tokenizer.
    """
    model = file.model
    if file.normalizer or model.continuing_subword_prefix or model.end_of_word_suffix or model.dropout:
        raise UnsupportedModelError(
            f"{source}: llama.cpp's byte-level BPE has no normalizer, word prefix or suffix, or dropout",
            fix="build an ONNX or Core ML recipe, such as onnx-int4: their apps use tokenizer.json itself",
        )
    rows = lay_out({n: Row(token) for token, n in model.vocab.items()}, file.added, size, source=source)
    pre = _pre_tokenizer(file, source=source)
    return Vocabulary(
        model="gpt2",
        pre=pre,
        notes=(_NOTES[pre],) if pre in _NOTES else (),
        tokens=tuple(row.text for row in rows),
        kinds=tuple(row.kind for row in rows),
        merges=tuple(f"{left} {right}" for left, right in model.pairs),
    )


def _pre_tokenizer(file: TokenizerJson, *, source: str) -> str:
    done = tuple(_what_it_does(step) for step in steps(file.pre_tokenizer, "pretokenizers"))
    whole_words = bool(file.model.ignore_merges)
    name = _PRE_TOKENIZERS.get((*done, whole_words))
    if name is not None:
        return name
    name = _PRE_TOKENIZERS.get((*done, False))
    unmerged = None if name is None else _unmerged_token(file)
    if name is not None and unmerged is None:
        return name  # merging a word that is a token gives that token: whether it is done makes no difference
    why = "" if unmerged is None else f", with which {unmerged!r} is a token that merges don't form"
    raise UnsupportedModelError(
        f"{source}: llama.cpp has no known name for the pre-tokenizer "
        f"{json.dumps(file.pre_tokenizer)[:300]} with ignore_merges {whole_words}{why}",
        fix="build an ONNX or Core ML recipe, such as onnx-int4: their apps use tokenizer.json itself",
    )


def _unmerged_token(file: TokenizerJson) -> str | None:
    """Return a token that its own characters are not merged to; None if there is none."""
    from tokenizers.models import BPE

    merging = BPE(vocab=file.model.vocab, merges=file.model.pairs)
    added = {token.content for token in file.added.values()}  # found in a text before it is split into words
    tokens = (token for token in file.model.vocab if token not in added)
    return next((token for token in tokens if len(merging.tokenize(token)) != 1), None)


def _what_it_does(step: dict[str, Any]) -> tuple[str, ...]:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return ("bytes after", _GPT2) if step.get("use_regex", True) else ("bytes",)
        case {"type": "Digits", "individual_digits": True}:
            return ("digits",)
        # The two behaviours are the same here: these patterns match every character.
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return ("split", pattern)
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True}:
            return ("split", pattern)
    return ("unknown", str(step.get("type")))
