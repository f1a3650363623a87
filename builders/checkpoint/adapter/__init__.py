"""peft adapters (LoRA) merged into a base while its tensors are read: no merged checkpoint is written.

Start at `merged.py` (`merge`: a base and a folder → `MergedCheckpoint`). `config.py` reads adapter_config.json,
`folder.py` the folder, `targets.py` has peft's rules on names, `plan.py` matches the adapter's tensors with the base's,
`changes.py` computes.
"""

from builders.checkpoint.adapter.merged import MergedCheckpoint, merge

__all__ = ["MergedCheckpoint", "merge"]
