"""Devices, recipes, gates, references, and the arithmetic of memory and speed: pure, no heavy import, the lowest layer.

Start reading at:

- `architecture.py`: what a Phi-3 is made of, read from `config.json`; tensor names and shapes, KV-cache bytes.
  `config_json.py` reads it, `config_rope.py` the rope in transformers 4's and 5's forms.
- `recipes.py`: the formats and how weights are stored in each; `storage/` says which tensor gets which type.
- `devices/`: phones and tablets, a TOML file each. `fit.py`: what fits on them. `roofline.py`: how fast it would be.
- `models.py`: the shapes of the released models. `prediction.py`: memory and speed as evidence.
- `evidence.py`, `gates.py`: figures that were measured or predicted on a bundle, and the bounds on them.
- `demands.py`, `toml_file.py`, `toml_lines.py`: gates in TOML; TOML read into models, every fault with its line.
- `project.py`: `phipack.toml`; `evaluation.py`: what a validation reads.
- `references.py`: `MODEL:1.2.0@TARGET` and version ranges.
- `errors.py`: every error that phipack raises.
"""
