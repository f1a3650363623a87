"""Olive's GPTQ on the CPU, in the environment of `genai.py`, whose builder then writes Olive's codes as ONNX.

Matrices of layers have 4 bits in blocks of 32 with zero points. The head has 8 bits, rounded to nearest, as `onnx-int4`
has it. The embedding stays as it is: Olive can store it in the head's codes, but genai's loader (0.18.0) then ends with
a ValueError at `model.embed_tokens.qweight`. All else is Olive's default. It reads windows of token ids from a
file, and no data set from a hub. Run as a script there: `olive_gptq.py CHECKPOINT WINDOWS.npy OUT`, with int64 ids
[windows, tokens].

Of a fused gate_up_proj, genai's loader takes the zero points of the first quarter of the rows for gate and the rest for
up (onnxruntime_genai/models/loaders/base.py, `intermediate_dim`), and onnxruntime refuses the graph: "zero_points
initializer shape {6912} does not match". `split_zero_points` puts them right.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = ("olive-ai==0.13.0", "requests")  # which Olive imports and does not ask for
GPTQ = {"bits": 4, "group_size": 32, "sym": False}
HEAD = {"bits": 8, "group_size": 32, "sym": False, "lm_head": True}


def environment(cache: Path) -> Path:
    """Return the Python that has the builder and Olive. Both are installed first if they are missing."""
    from benchmarks.peers import genai

    python = genai.environment(cache)
    done = python.parent.parent / ".olive-installed"
    if not done.is_file():
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *genai.REQUIREMENTS, *REQUIREMENTS], check=True)
        done.touch()
    return python


def command(checkpoint: Path, windows: Path, out: Path, cache: Path) -> list[str]:
    """Return the command that writes a quantized checkpoint, in Olive's own format, which genai's builder reads."""
    # -I: modules here, and those that PYTHONPATH names, must not hide the environment's.
    files = [str(path.resolve()) for path in (Path(__file__), checkpoint, windows, out)]
    return [str(environment(cache)), "-I", *files]


def quantize(checkpoint: Path, windows: Path, out: Path) -> None:
    """Run Olive's passes in float32: on a CPU its products of float16 are slower."""
    import numpy as np
    import torch
    from olive.data.config import DataConfig
    from olive.data.registry import Registry
    from olive.model import HfModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.pytorch.gptq import Gptq
    from olive.passes.pytorch.rtn import Rtn

    ids = torch.from_numpy(np.load(windows))

    @Registry.register_dataset("windows")
    def rows(**_settings: Any) -> list[Any]:
        return [({"input_ids": row, "attention_mask": torch.ones_like(row)}, 0) for row in ids]

    data = DataConfig(name="windows", load_dataset_config={"type": "windows"})
    layers = create_pass_from_dict(Gptq, {**GPTQ, "data_config": data}, disable_search=True)
    head = create_pass_from_dict(Rtn, HEAD, disable_search=True)
    handler = HfModelHandler(model_path=str(checkpoint), load_kwargs={"torch_dtype": "float32"})
    head.run(layers.run(handler, str(out.with_name(f"{out.name}-layers"))), str(out))


def split_zero_points(graph: Path) -> None:
    """Split the zero points of gate and up in halves: see the module's docstring. The graph is written again."""
    import numpy as np
    import onnx
    from onnx.numpy_helper import from_array, to_array

    model = onnx.load(graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith(".qzeros")}
    for name, gate in tensors.items():
        if ".gate_proj." in name:
            up = tensors[name.replace(".gate_proj.", ".up_proj.")]
            halves = np.split(np.concatenate([to_array(gate).reshape(-1), to_array(up).reshape(-1)]), 2)
            for tensor, half in zip((gate, up), halves, strict=True):
                tensor.CopyFrom(from_array(half, tensor.name))
    data = graph.with_name(f"{graph.name}.data")
    data.unlink()
    onnx.save(model, graph, save_as_external_data=True, location=data.name)


if __name__ == "__main__":
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"  # Olive sends reports of its use otherwise
    quantize(*map(Path, sys.argv[1:]))
