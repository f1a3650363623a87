"""GGUF for llama.cpp: one file, weights streamed into it, quantized by ggml's own code.

Start at `convert.py` (metadata and the stream of tensors); `quantize.py` calls ggml. `tokenizer.py` reads a Hugging
Face tokenizer as llama.cpp does: `byte_level.py` (GPT-2's kind) and `pieces.py` (SentencePiece's) both return a
`vocabulary.py`; `tokenizer_json.py` parses their file. Which type a tensor gets is in `targets/storage/gguf.py`.
"""

from builders.gguf.convert import artifact_sizes, convert

__all__ = ["artifact_sizes", "convert"]
