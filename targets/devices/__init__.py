"""Device classes: one TOML file each beside this one, and any file of a user's own by its path.

- `target.py`: the model of such a file, and finding one by name.
"""

from targets.devices.target import Quantity, Target, load_targets, target_named

__all__ = ["Quantity", "Target", "load_targets", "target_named"]
