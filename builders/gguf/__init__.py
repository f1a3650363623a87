"""GGUF for llama.cpp: one file, weights streamed into it, quantized by ggml's own code.

- `convert.py`: the container, its metadata, and the stream of tensors.
- `quantize.py`: ggml's quantizers. Which type a tensor gets is in `targets/storage/gguf.py`.
- `vocabulary.py`: a Hugging Face tokenizer as llama.cpp reads it.
- `session.py`: a bundle opened in llama.cpp.
"""

from builders.gguf.convert import convert

__all__ = ["convert"]
