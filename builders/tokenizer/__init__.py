"""Tokenizers, of checkpoints and of bundles: read, made into `tokenizer.json` where a checkpoint has none, checked.

    loading.py     folder → `Tokenizer`: text to ids and back, whatever file says how
    tiktoken.py    `*.tiktoken` (ranks, as Phi-3-small has them) → `tokenizer.json`
    bundled.py     checkpoint → the tokenizer files of a bundle, ids held to the vocabulary

What llama.cpp reads instead is made in `builders/gguf/`.
"""

from builders.tokenizer.bundled import bundled_files
from builders.tokenizer.loading import Tokenizer, load_tokenizer

__all__ = ["Tokenizer", "bundled_files", "load_tokenizer"]
