"""A Hugging Face folder, opened for streaming: config and tokenizer checked first, tensors read one at a time.

- `shards.py`: safetensors headers and memory-mapped tensors, over one file or many.
- `reading.py`: `Checkpoint` and `open_checkpoint`, the face of this folder.
"""

from builders.checkpoint.reading import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
