"""A Hugging Face folder, opened for streaming: config and tokenizer checked first, tensors read one at a time.

- `shards.py`: safetensors headers and memory-mapped tensors, over one file or many.
- `rows.py`: rows of a stored tensor in the order that all families are seen in.
- `writing.py`: safetensors written tensor by tensor.
- `lockstep.py`: several builds that read one checkpoint side by side, so that it is read once.
- `checkpoint.py`: `Checkpoint` and `open_checkpoint`, the face of this folder.
"""

from builders.checkpoint.checkpoint import CHAT_TEMPLATE_NAME, Checkpoint, open_checkpoint, read_json, tiktoken_files

__all__ = ["CHAT_TEMPLATE_NAME", "Checkpoint", "open_checkpoint", "read_json", "tiktoken_files"]
