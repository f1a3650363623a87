"""Checkpoint folders whose tokenizer is written in every way that people have it. All are tiny Phi-3s."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.checkpoints import SPECIAL, Tiny, edit_json, random_weights, write_json, write_tiny, write_weights
from tests.support.sentencepiece_folder import write_sentencepiece

CONFIG = "tokenizer_config.json"


def _edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "tokenizer.json").read_bytes())
    change(content)
    write_json(folder / "tokenizer.json", content)


def _saved_by_transformers(folder: Path) -> None:
    """As transformers 5 saves it: tokenizer.json, a short config, chat_template.jinja."""
    import transformers

    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    for name in (CONFIG, "tokenizer.json", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)
    loaded.save_pretrained(folder)


def _not_legacy(folder: Path) -> None:
    edit_json(folder / CONFIG, legacy=False)


def _added_tokens_json(folder: Path) -> None:
    edit_json(folder / CONFIG, added_tokens_decoder=...)
    write_json(folder / "added_tokens.json", SPECIAL)


def _released(folder: Path) -> None:
    """As Microsoft released Phi-3-mini: the pieces, and a tokenizer.json that the config's "legacy" contradicts."""
    from builders.tokenizer import load_tokenizer

    (folder / "tokenizer.json").write_bytes(load_tokenizer(folder).to_json())
    _not_legacy(folder)


def _cut(folder: Path) -> None:
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 310}
    pad |= {"pad_type_id": 0, "pad_token": "<|endoftext|>"}
    _edit_tokenizer(folder, lambda content: content.update(truncation=cut, padding=pad))


def _only_in_decoder(folder: Path) -> None:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    edit_json(folder / CONFIG, added_tokens_decoder={"313": {"content": "<|user|>", "special": True, **flags}})
    _edit_tokenizer(folder, lambda c: c.update(added_tokens=[t for t in c["added_tokens"] if t["id"] != 313]))


def _only_in_special_tokens_map(folder: Path) -> None:
    _edit_tokenizer(folder, lambda c: c.update(added_tokens=[t for t in c["added_tokens"] if t["id"] != 312]))
    write_json(folder / "special_tokens_map.json", {"extra_special_tokens": ["<|end|>"], "mask_token": "<|system|>"})


def _bos_by_processor(folder: Path) -> None:
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [310], "tokens": ["<|endoftext|>"]}}
    single: list[dict[str, Any]] = [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    step = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    _edit_tokenizer(folder, lambda content: content.update(post_processor=step))
    edit_json(folder / CONFIG, add_bos_token=False)


def _bos_by_config(folder: Path) -> None:
    edit_json(folder / CONFIG, add_bos_token=True, add_eos_token=True)


def _eos_not_special(folder: Path) -> None:
    edit_json(folder / CONFIG, eos_token="</s>")


def _cleaned(folder: Path) -> None:
    edit_json(folder / CONFIG, clean_up_tokenization_spaces=True)


def _llama(folder: Path) -> None:
    config = Tiny(family="llama").config()
    write_json(folder / "config.json", config)
    write_weights(folder, random_weights(config))


def _llama_rebuilt(folder: Path) -> None:
    """A class that rebuilds what its tokenizer.json says."""
    _released(folder)
    _llama(folder)


def _none(_folder: Path) -> None:
    pass


Change = Callable[[Path], None]
# Name → whether pieces of SentencePiece or bytes, and what is changed in the folder.
FOLDERS: dict[str, tuple[Callable[[Path], Path], Change]] = {
    "pieces": (write_sentencepiece, _none),
    "pieces, not legacy": (write_sentencepiece, _not_legacy),
    "pieces, added_tokens.json": (write_sentencepiece, _added_tokens_json),
    "pieces, as released": (write_sentencepiece, _released),
    "pieces, saved by transformers 5": (write_sentencepiece, _saved_by_transformers),
    "pieces, EOS and no special token": (write_sentencepiece, _eos_not_special),
    "pieces, BOS and EOS by config": (write_sentencepiece, _bos_by_config),
    "pieces, Llama": (write_sentencepiece, _llama_rebuilt),
    "bytes": (write_tiny, _none),
    "bytes, saved by transformers 5": (write_tiny, _saved_by_transformers),
    "bytes, truncation and padding": (write_tiny, _cut),
    "bytes, a token only in added_tokens_decoder": (write_tiny, _only_in_decoder),
    "bytes, tokens only in special_tokens_map.json": (write_tiny, _only_in_special_tokens_map),
    "bytes, BOS by post-processor": (write_tiny, _bos_by_processor),
    "bytes, BOS and EOS by config": (write_tiny, _bos_by_config),
    "bytes, cleaned up": (write_tiny, _cleaned),
}


def write_folder(folder: Path, name: str) -> Path:
    """Write the checkpoint of that name."""
    write, change = FOLDERS[name]
    write(folder)
    change(folder)
    return folder
