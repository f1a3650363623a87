"""GGUF for llama.cpp: one file, weights streamed into it, quantized by ggml's own code.

- `convert.py`: the container, its metadata, and the stream of tensors.
- `quantize.py`: ggml's quantizers. Which type a tensor gets is in `targets/storage/gguf.py`.
- `tokenizer.py`: a Hugging Face tokenizer as llama.cpp reads it. Its two kinds: `byte_level.py` (GPT-2's) and
  `pieces.py` (SentencePiece's), both of which give a `vocabulary.py`; `tokenizer_json.py` reads their file.
- `session.py`: a bundle opened in llama.cpp.
"""

from builders.gguf.convert import artifact_sizes, convert

__all__ = ["artifact_sizes", "convert"]
