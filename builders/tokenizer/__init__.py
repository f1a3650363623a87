"""Tokenizers of checkpoints and of bundles, chat templates and stop ids: as transformers has them.

Start at `loading.py` (a checkpoint's folder → `Tokenizer`, loaded by transformers; a bundle's from its tokenizer.json).
`canonical.py` writes what is loaded as one tokenizer.json; `tiktoken.py` converts `*.tiktoken` (ranks, as Phi-3-small
has them). `chat.py` renders templates, `probes.py` finds out what a template does, `stop_ids.py` what ends an answer.
`bundled.py` puts the files of a bundle together. What llama.cpp reads instead is written by `builders/gguf/`.
"""

from builders.tokenizer.bundled import bundled_tokenizer, tokenizer_folder
from builders.tokenizer.loading import (
    Tokenizer,
    load_tokenizer,
    read_bundled_tokenizer,
    read_special_tokens,
    tokenizer_of,
)
from builders.tokenizer.probes import render_conversation
from builders.tokenizer.stop_ids import named_id, stop_token_ids

__all__ = [
    "Tokenizer",
    "bundled_tokenizer",
    "load_tokenizer",
    "named_id",
    "read_bundled_tokenizer",
    "read_special_tokens",
    "render_conversation",
    "stop_token_ids",
    "tokenizer_folder",
    "tokenizer_of",
]
