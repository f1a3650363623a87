"""A checkpoint's tokenizer, as transformers loads the folder; and a bundle's, from its `tokenizer.json` alone.

What a folder's many files mean together (which of them wins, which added tokens are united, what a class rebuilds) is
decided by transformers itself: `AutoTokenizer` loads it, without the checkpoint's own code, and what it has in memory
is written as the one `tokenizer.json` (`canonical.py`) that every format is built from.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from builders.checkpoint import Checkpoint, read_json, tiktoken_files
from builders.checkpoint.tokenizer_files import tokenizer_files
from builders.tokenizer.canonical import canonical_json
from builders.tokenizer.tiktoken import tokenizer_json_of_ranks
from builders.torch_later import put_torch_off
from targets.errors import CheckpointError, UnsupportedModelError
from targets.special_tokens import special_tokens_of

_LOADING = threading.Lock()  # transformers imports its parts on first use: one thread at a time
# Keys of tokenizer_config.json that change what the tokenizer does in Python only: a tokenizer.json can't say it.
_IN_PYTHON_ONLY = (
    "split_special_tokens",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
)
_DAMAGED_FIX = "download the tokenizer's files again from the model's repository"


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. `add_special_tokens`: with those that the tokenizer puts around a text, such as BOS.

    `special_tokens`: by role, such as {"eos_token": "<|endoftext|>"}; chat templates use them by these names.
    """

    _inner: Any
    _content: bytes
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; special tokens written out in it become their ids."""
        return list(self._inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int], *, with_special_tokens: bool = False) -> str:
        """Return the text of ids, by default without special tokens."""
        return str(self._inner.decode(ids, skip_special_tokens=not with_special_tokens))

    def vocabulary(self) -> dict[str, int]:
        """Return the id of every token, added ones too."""
        return dict(self._inner.get_vocab(with_added_tokens=True))

    def added_tokens(self) -> frozenset[int]:
        """Return the ids of the tokens that are found in a text before anything else, special or not."""
        return frozenset(self._inner.get_added_tokens_decoder())

    def tokens_with(self, flags: Sequence[str]) -> list[str]:
        """Return the added tokens that have one of these flags, such as `rstrip`."""
        added = self._inner.get_added_tokens_decoder().values()
        return [str(token.content) for token in added if any(getattr(token, flag) for flag in flags)]

    def put_around(self) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before a text, and after it."""
        plain, whole = self.encode("a"), self.encode("a", add_special_tokens=True)
        start = next(n for n in range(len(whole)) if whole[n : n + len(plain)] == plain)
        return whole[:start], whole[start + len(plain) :]

    def without_flags(self, flags: Sequence[str]) -> Tokenizer:
        """Return the tokenizer that a runtime has which doesn't know these flags of added tokens, such as `rstrip`."""
        import tokenizers

        content = json.loads(self._content)
        content["added_tokens"] = [token | dict.fromkeys(flags, False) for token in content["added_tokens"]]
        changed = json.dumps(content, allow_nan=False)
        return replace(self, _inner=tokenizers.Tokenizer.from_str(changed), _content=changed.encode())

    def to_json(self) -> bytes:
        """Return the bytes of a `tokenizer.json`."""
        return self._content


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """Load a checkpoint's tokenizer. Raises as `load_tokenizer`."""
    return load_tokenizer(checkpoint.tokenizer_folder, config_folder=checkpoint.path)


def load_tokenizer(folder: Path, *, config_folder: Path | None = None) -> Tokenizer:
    """Load a checkpoint's tokenizer as transformers does; where there is only `cl100k_base.tiktoken`, convert it.

    `config_folder`: where config.json is, if not in `folder`: the model's type decides which class transformers takes.

    Raises:
        CheckpointError: none is there, it can't be read, or its files contradict each other.
        UnsupportedModelError: it does what no tokenizer.json can say, or a file of ranks whose encoding is not known.
    """
    files = {name: path.stat() for name, path in tokenizer_files(folder).items()}
    state = tuple((name, each.st_size, each.st_mtime_ns, each.st_ino) for name, each in files.items())
    with _LOADING:
        return _load(folder, config_folder or folder, state)


def read_bundled_tokenizer(folder: Path) -> Tokenizer:
    """Read a bundle's tokenizer from its `tokenizer.json`. Raises `CheckpointError` where it can't be read."""
    path = folder / "tokenizer.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error.strerror}", fix="fetch or build the bundle again"
        ) from error
    return _of_json(path, content, read_special_tokens(folder))


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Return a bundle's special tokens by role. Raises `CheckpointError` where its tokenizer_config.json is damaged."""
    return special_tokens_of(read_json(folder / "tokenizer_config.json", required=False))


@lru_cache(maxsize=2)  # one build asks several times, and a large vocabulary takes seconds
def _load(folder: Path, config_folder: Path, _state: tuple[tuple[str, int, int, int], ...]) -> Tokenizer:
    if (folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file():
        return _of_transformers(folder, config_folder)
    if not (ranks := tiktoken_files(folder)):
        raise CheckpointError(
            f"{folder}: no tokenizer.json, tokenizer.model or *.tiktoken",
            fix="copy the tokenizer's files into the folder, from the model's repository",
        )
    config = read_json(folder / "tokenizer_config.json", required=False)
    ends = {f"{key}_token": "<|endoftext|>" for key in ("bos", "eos", "pad")}
    return _of_json(ranks[0], tokenizer_json_of_ranks(ranks[0], config), ends | read_special_tokens(folder))


def _of_transformers(folder: Path, config_folder: Path) -> Tokenizer:
    config = read_json(folder / "tokenizer_config.json", required=False)
    for key in _IN_PYTHON_ONLY:
        if config.get(key):
            raise UnsupportedModelError(
                f"{folder / 'tokenizer_config.json'}: {key} is set, which only transformers itself can obey",
                fix=f"set {key} to false if the model was trained without it",
            )
    if not (folder / "tokenizer.json").is_file():
        _refuse_another_file(folder / "tokenizer.model")
    loaded = _from_pretrained(folder, config_folder, config)
    _refuse_other_ids(folder, config, loaded.get_vocab())
    named = {key: str(value) for key, value in loaded.special_tokens_map.items() if isinstance(value, str)}
    path = folder / "tokenizer.json"
    return _of_json(path, canonical_json(loaded.backend_tokenizer, path), named)


def _from_pretrained(folder: Path, config_folder: Path, written: Mapping[str, Any]) -> Any:
    put_torch_off()
    import transformers

    # A class that the checkpoint brings is never run. transformers would ask on standard input whether it may, or
    # refuse, without `trust_remote_code=False`; where there is a tokenizer.json, it is read without the class.
    has_code = bool(written.get("auto_map")) and (folder / "tokenizer.json").is_file()
    kind: Any = transformers.PreTrainedTokenizerFast if has_code else transformers.AutoTokenizer
    # The libraries raise Exception itself: there is no narrower class to catch.
    try:
        config = _model_config(config_folder)
        return kind.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: transformers can't load the tokenizer ({', '.join(tokenizer_files(folder))}): "
            f"{type(error).__name__}: {str(error)[:300]}",
            fix=_DAMAGED_FIX,
        ) from error


def _model_config(folder: Path) -> Any:
    """Return a config with what decides the tokenizer's class, and nothing else.

    transformers can't open every config whose tokenizer it can: not the first longrope (`su`), not Phi-3-small's.
    """
    import transformers

    content = read_json(folder / "config.json", required=False)
    known = transformers.CONFIG_MAPPING
    name = content.get("model_type")
    config = known[name]() if name in known else transformers.PreTrainedConfig()
    config.tokenizer_class = content.get("tokenizer_class")
    return config


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


def _refuse_other_ids(folder: Path, config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    """Refuse a token that gets another id than the file that transformers reads it from says."""
    listed, source = config.get("added_tokens_decoder"), "tokenizer_config.json: added_tokens_decoder"
    if isinstance(listed, dict):
        said = {entry["content"]: int(number) for number, entry in listed.items()}
    else:
        said, source = read_json(folder / "added_tokens.json", required=False), "added_tokens.json"
    for token, number in said.items():
        if vocabulary.get(token) != number:
            raise CheckpointError(
                f"{folder}/{source} says that {token!r} is id {number!r}, transformers makes it "
                f"{vocabulary.get(token)} from the other tokenizer files",
                fix="find out which id the model was trained with, and correct the file that is wrong",
            )


def _of_json(path: Path, content: bytes, special_tokens: Mapping[str, str]) -> Tokenizer:
    import tokenizers

    # The library raises Exception itself: there is no narrower class to catch.
    try:
        return Tokenizer(tokenizers.Tokenizer.from_str(content.decode()), content, special_tokens)
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a tokenizer: {error}", fix="download it again from the model's repository"
        ) from error
