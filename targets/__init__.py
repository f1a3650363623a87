"""Devices, recipes, gates, references, and the arithmetic of memory and speed: pure, no heavy import, the lowest layer.

Start reading at:

- `architecture.py`: what a Phi-3 is made of, read from `config.json`; tensor names and shapes, KV-cache bytes.
- `recipes.py`: the formats and how weights are stored in each; `storage/` says which tensor gets which type.
- `devices.py` and `devices/*.toml`: phones and tablets. `fit.py`: what fits on them. `roofline.py`: how fast it would be.
- `evidence.py`, `gates.py`: figures that were measured or predicted on a bundle, and the bounds on them.
- `references.py`: `MODEL:1.2.0@TARGET` and version ranges.
- `errors.py`: every error that phipack raises.
"""
