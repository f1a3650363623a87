"""The lowest layer: devices, recipes, gates, references, and the arithmetic of memory and speed. Pure, no heavy import.

Start reading at:

- `architecture.py`: a model's shape: tensor names and shapes, KV-cache bytes. `config_json.py` reads it from
  `config.json`, `config_rope.py` reads the rope in the forms of transformers 4 and 5.
- `recipes.py`: the formats and how weights are stored in each; `storage/` chooses the type of each tensor.
- `devices/`: phones and tablets, one TOML file each. `fit.py`: what fits on them. `roofline.py`: predicted speed, which
  `speeds/` learns from published and measured ones.
- `models.py`: the shapes of the released models. `prediction.py`: memory and speed as evidence.
- `evidence.py`, `gates.py`: figures that were measured or predicted for a bundle, and the bounds on them.
- `measurement.py`, `device_evidence.py`: what was measured on a device, and for which target it counts.
  `benchmark_files/`: outputs of other projects' benchmarks.
- `demands.py`, `toml_file.py`, `toml_lines.py`: gates in TOML; TOML read into models, every error with its line.
- `project.py`: `phipack.toml`; `evaluation.py`: the settings of a validation.
- `references.py`: `MODEL:1.2.0@TARGET` and version ranges.
- `strict_json.py`, `bounded_file.py`: JSON and files of others, read within limits.
- `own_process.py`: what a process of phipack's own leaves unimported.
- `errors.py`: every error that phipack raises; `secrets.py` and `printable.py` say how text may be shown.
"""
