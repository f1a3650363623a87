"""Device classes: one TOML file each in this folder. Users may add their own file, by its path.

- `target.py`: the model of such a file, and the look-up by name.
"""

from targets.devices.target import Quantity, Target, load_targets, target_named, target_with

__all__ = ["Quantity", "Target", "load_targets", "target_named", "target_with"]
