"""Holds what phipack reads from a checkpoint to what transformers reads from the same folder.

The float32 reference reads a checkpoint with the builder's own code, so a misreading would be in the bundle and in the
reference alike, and they would agree. The oracle therefore asks code that shares nothing with ours:

    folder ──transformers──> numbers, ids, rendered prompts, states of the first layers ──┐
       └─────phipack───────> the same                                                     ├──> Agreement, or an error
                                                                                          │    that names what differs
                                                                                          ┘    first

Start at `oracle.py` (`ask_oracle`: a checkpoint; `check_bundle`: what a bundle carries). The truth:

- `excerpt.py` writes a folder with the first two layers, all else as it is.
- `transformers_model.py` runs it in transformers; `phi3_small.py` computes Phi-3-small, whose code is not part of
  transformers and is never executed, from the formulas.
- `peft_merge.py` has peft merge an adapter into either, where the checkpoint is a base with one.
- `transformers_text.py` asks transformers for ids, rendered prompts and stop ids; `ranks.py` splits text as tiktoken
  does.

These don't import what they judge (checkpoint, tokenizer, reference, `targets/config_json.py`): import-linter holds it.
`reading.py` is phipack's own reading of the same; `states.py` compares the two; `record.py` keeps the result on disk.
"""

from builders.oracle.oracle import ask_oracle, check_bundle
from builders.oracle.record import Agreement

__all__ = ["Agreement", "ask_oracle", "check_bundle"]
