"""A Hugging Face folder, opened for streaming: config and tokenizer checked first, tensors read one at a time.

Start at `checkpoint.py` (`open_checkpoint`, and `Checkpoint`: the facts) and `sources.py` (`TensorSource`: weights).
`folder_check.py` recognises what is no checkpoint, `weight_files.py` finds the weights, `tensor_check.py` accounts for
each tensor, and `tokenizer_files.py` lists what defines the tokenizer. `shards.py` reads safetensors headers and maps
tensors; `rows.py` puts rows into the order that all families share; `lockstep.py` lets several builds read one
checkpoint once; `writing.py` writes safetensors tensor by tensor. `adapter/` reads a base with a LoRA merged into it as
one checkpoint.
"""

from builders.checkpoint.checkpoint import Checkpoint, open_checkpoint, read_json
from builders.checkpoint.sources import TensorSource
from builders.checkpoint.tokenizer_files import CHAT_TEMPLATE_NAME, tiktoken_files

__all__ = ["CHAT_TEMPLATE_NAME", "Checkpoint", "TensorSource", "open_checkpoint", "read_json", "tiktoken_files"]
