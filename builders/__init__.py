"""Checkpoints in, bundles and evidence out.

Start at `build.py`, the one way to make a bundle. From the bottom up:

| room | what is in it |
|---|---|
| `phases.py`, `own_code.py` | what a build reports of its work, for `--profile`; the digest of our own code |
| `threads.py` | how many threads work |
| `quiet_transformers.py`, `torch_later.py` | transformers without its messages, and without torch until it is used |
| `templates/` | chat templates, rendered in a process of their own |
| `checkpoint/` | a Hugging Face folder, its tensors read one at a time |
| `tokenizer/`, `artifact/` | tokenizer files of a bundle; large files written and hashed |
| `conversion.py` | the contract between `build.py` and the converters |
| `reference/` | the checkpoint's own answer in float32, layer by layer |
| `quantization/` | which code each weight gets, and which type each matrix, for all formats |
| `gguf/`, `onnx/`, `coreml/` | converters, one a format, with the same face |
| `runtime/` | a bundle run in its own runtime |
| `oracle/` | phipack's reading of a checkpoint held to transformers' |
| `validation/` | a bundle compared with its checkpoint, and timed |
| `matrix/` | the jobs of a release, for one machine or many |

On top: `build.py`, `build_cache.py`, `release.py`, `relayout.py`, `sizes.py`; `calibrate.py`: what builds learn from a
text; `choose_types.py`: the types of a recipe with a budget; `optimum_export/`: optimum in an environment
of its own.
"""

import os

# onnxruntime and onnxruntime-genai send usage events to their maker, through the user's proxy. They read this when they
# are loaded; who wants the events sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
