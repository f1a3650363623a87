"""A checkpoint's or bundle's own tokenizer, read from its folder: one class for both, so that they can be compared."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.checkpoint import read_json
from builders.tokenizer.tiktoken import tiktoken_file, tokenizer_json_of_ranks
from targets.errors import CheckpointError

_CONVERTING = threading.Lock()  # transformers imports its parts on first use: one thread at a time
# What tokenizer_config.json may name where tokenizer.model is all there is: classes that add nothing to the model.
_SENTENCEPIECE_CLASSES = ("LlamaTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
# The space before a text, and spaces as "▁": in transformers 5's form and in that of the tokenizer.json of Phi-3 and
# Llama-2. Both have the same ids; the second is the one that every runtime reads.
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_FIRST_SPACE = {"type": "Replace", "pattern": {"Regex": "\\A▁"}, "content": "▁▁"}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
_V5_NORMALIZER = {"type": "Sequence", "normalizers": [_SPACES, _FIRST_SPACE]}
_V5_PRE_TOKENIZER = {"type": "Sequence", "pretokenizers": [_METASPACE]}
_LLAMA_NORMALIZER = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, _SPACES]}


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. `add_special_tokens`: with those that the tokenizer puts around a text, such as BOS."""

    _inner: Any

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; special tokens written out in it become their ids."""
        return list(self._inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, special tokens left out."""
        return str(self._inner.decode(ids, skip_special_tokens=True))

    def vocabulary(self) -> dict[str, int]:
        """Return the id of every token, added ones too."""
        return dict(self._inner.get_vocab(with_added_tokens=True))

    def to_json(self) -> bytes:
        """Return the bytes of a `tokenizer.json`."""
        return str(self._inner.to_str(pretty=False)).encode()


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`; where there is none, convert `tokenizer.model` (SentencePiece) or `cl100k_base.tiktoken`.

    Raises:
        CheckpointError: none is there, or it can't be read.
        UnsupportedModelError: a file of ranks whose encoding is not known.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return _of_json(path, path.read_bytes())
    if (folder / "tokenizer.model").is_file():
        return _of_sentencepiece(folder)
    ranks = tiktoken_file(folder)
    if ranks is None:
        raise CheckpointError(
            f"{folder}: no tokenizer.json, tokenizer.model or *.tiktoken",
            fix="copy the tokenizer's files into the folder, from the model's repository",
        )
    return _of_json(ranks, tokenizer_json_of_ranks(ranks, read_json(folder / "tokenizer_config.json", required=False)))


def _of_json(path: Path, content: bytes) -> Tokenizer:
    import tokenizers

    # The library raises Exception itself: there is no narrower class to catch.
    try:
        return Tokenizer(tokenizers.Tokenizer.from_str(content.decode()))
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a tokenizer: {error}", fix="download it again from the model's repository"
        ) from error


def _of_sentencepiece(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.model"
    _refuse_another_class(folder)
    _refuse_another_file(path)
    with _CONVERTING:
        import transformers

        # The class that converts the model as SentencePiece itself reads it, whatever config.json and the tokenizer's
        # own class say: transformers 5's `LlamaTokenizer` loses one space of those at the start of a text.
        # `legacy`: a space before each stretch of text between special tokens, as SentencePiece itself puts it and as
        # the tokenizer.json of Phi-3 and Llama-2 has it, whose tokenizer_config.json says otherwise.
        try:
            converted = transformers.TokenizersBackend.from_pretrained(folder, legacy=True, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path}: transformers can't convert it: {error}",
                fix="if it is another tokenizer's, write a tokenizer.json with transformers: "
                "tokenizer.save_pretrained(...)",
            ) from error
    # Read again as a file: the object in memory still treats </s> as special, whatever the configuration says.
    return _of_json(path, _in_llama_form(converted.backend_tokenizer.to_str()).encode())


def _refuse_another_class(folder: Path) -> None:
    """Refuse a tokenizer class that is not known: what it adds to its model is in code, which is not run."""
    name = read_json(folder / "tokenizer_config.json", required=False).get("tokenizer_class")
    if name is None or (isinstance(name, str) and name.removesuffix("Fast") in _SENTENCEPIECE_CLASSES):
        return
    raise CheckpointError(
        f"{folder / 'tokenizer.model'}: a tokenizer of the class {name!r} can't be read without running code from the"
        " checkpoint",
        fix="if you trust it, write a tokenizer.json with transformers: tokenizer.save_pretrained(...)",
    )


def _refuse_another_file(path: Path) -> None:
    """Refuse what is no SentencePiece model: transformers would try to read it as a file of ranks."""
    import sentencepiece

    try:
        sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a SentencePiece model: {str(error).splitlines()[0]}",
            fix="download it again from the model's repository, or write a tokenizer.json with transformers: "
            "tokenizer.save_pretrained(...)",
        ) from error


def _in_llama_form(content: str) -> str:
    """Return a converted tokenizer.json with the space before a text as Llama-2's has it, where it has only that."""
    written: dict[str, Any] = json.loads(content)
    if written["normalizer"] == _V5_NORMALIZER and written["pre_tokenizer"] == _V5_PRE_TOKENIZER:
        written |= {"normalizer": _LLAMA_NORMALIZER, "pre_tokenizer": None}
    return json.dumps(written, ensure_ascii=False)
