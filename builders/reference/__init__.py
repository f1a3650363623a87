"""The checkpoint's own answer, in float32, whatever its size.

- `forward.py`: the forward pass, one layer's weights in memory at a time, over all sequences.
- `logits.py`: `FloatReference`: hidden states of evaluation windows, cached on disk, and logits on demand.
"""

from builders.reference.logits import FloatReference, token_digest

__all__ = ["FloatReference", "token_digest"]
