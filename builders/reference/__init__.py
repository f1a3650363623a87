"""The checkpoint's own answer in float32, whatever its size: what bundles are compared with.

Start at `logits.py` (`FloatReference`: hidden states of evaluation windows, cached on disk, and logits on demand).
`forward.py` is the forward pass, with one layer's weights in memory at a time; `attention_masks.py` says which keys a
query sees; `statistics.py` accumulates what matrices are multiplied with. `sequences.py` reads sequences on, a few
tokens at a time; `answers.py` writes greedy answers with it, `continuations.py` says how far a bundle's continuations
are the reference's, and `words.py` keeps what both have found.
"""

from builders.reference.answers import Ending, batches, common_start, padded, reference_answers, states_after
from builders.reference.continuations import Continuations
from builders.reference.logits import FloatReference, token_digest

__all__ = [
    "Continuations",
    "Ending",
    "FloatReference",
    "batches",
    "common_start",
    "padded",
    "reference_answers",
    "states_after",
    "token_digest",
]
