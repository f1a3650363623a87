"""Tokenizers of checkpoints and of bundles: read, checked, and converted to `tokenizer.json` where there is none.

Start at `loading.py` (a folder → `Tokenizer`: text to ids and back, whichever file defines it). `bundled.py` returns
the tokenizer files of a bundle, ids checked against the vocabulary; `tiktoken.py` converts `*.tiktoken` (ranks, as
Phi-3-small has them). What llama.cpp reads instead is written by `builders/gguf/`.
"""

from builders.tokenizer.bundled import bundled_files
from builders.tokenizer.loading import Tokenizer, load_tokenizer

__all__ = ["Tokenizer", "bundled_files", "load_tokenizer"]
