"""Checkpoints in, bundles and evidence out.

Start reading at:

- `checkpoint/`: a Hugging Face folder, its tensors read one at a time.
- `build.py`: the one way to make a bundle; `gguf/`, `onnx/`, `coreml/` are its converters.
- `reference/`: the checkpoint's own answer in float32, layer by layer.
- `validation/`: a bundle run in its own runtime, compared and measured.
- `project.py`: `phipack.toml`. `plan.py`: its cells, built once for the same inputs.
"""
