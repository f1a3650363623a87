"""Runs cases in an older runtime: started by `tests.support.runtime_matrix` with that runtime on `PYTHONPATH`.

Imports numpy and the runtime alone, in any of their versions. Every case runs in a process of its own, forked before
the runtime has threads: a crash is an outcome. Arguments: `onnxruntime` or `onnxruntime-genai`, and a folder for each
case; `NAME.npy` is written there, or `NAME.error`, where NAME is the runtime's version.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

_PROMPT_TOKENS, _NEW_TOKENS, _CASE_SECONDS = 100, 8, 300


def main() -> None:
    """Run all cases, one after the other."""
    kind, *folders = sys.argv[1:]
    runtime = __import__(kind.replace("-", "_"))
    run = {"onnxruntime": _run_onnx, "onnxruntime-genai": _run_genai}[kind]
    for folder in map(Path, folders):
        child = os.fork()
        if child == 0:
            signal.alarm(_CASE_SECONDS)
            _report(run, runtime, folder)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            (folder / f"{runtime.__version__}.error").write_text(f"signal {os.WTERMSIG(status)}")


def _report(run: Any, runtime: Any, folder: Path) -> None:
    try:
        np.save(folder / f"{runtime.__version__}.npy", run(runtime, folder))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        (folder / f"{runtime.__version__}.error").write_text(str(error))
    os._exit(0)


def _run_onnx(runtime: Any, folder: Path) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = runtime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    if (folder / "inputs.npz").is_file():
        return session.run(["out"], dict(np.load(folder / "inputs.npz")))[0]
    return _run_bundle(runtime, session, folder)


def _run_bundle(runtime: Any, session: Any, folder: Path) -> Any:
    """Return the logits of a prompt. A cache of fixed length is one buffer for input and output, as genai has it."""
    length = json.loads((folder / "genai_config.json").read_text())["model"]["context_length"]
    lengths = [
        {one.shape[2] for one in arrays if one.name.endswith(".key")}
        for arrays in (session.get_inputs(), session.get_outputs())
    ]
    shared = lengths[0] == lengths[1]
    binding = session.io_binding()
    for one in session.get_inputs():
        if one.name == "input_ids":
            binding.bind_cpu_input(one.name, np.arange(1, _PROMPT_TOKENS + 1, dtype=np.int64)[None])
        elif one.name == "attention_mask":
            binding.bind_cpu_input(one.name, np.ones((1, _PROMPT_TOKENS), np.int64))
        else:
            batch, heads, _, width = one.shape
            dtype = np.float16 if "float16" in one.type else np.float32
            assert isinstance(batch, str)
            empty = np.zeros((1, heads, length if shared else 0, width), dtype)
            value = runtime.OrtValue.ortvalue_from_numpy(empty)
            binding.bind_ortvalue_input(one.name, value)
            if shared:
                binding.bind_ortvalue_output(one.name.replace("past_key_values", "present"), value)
    names = [one.name for one in session.get_outputs() if one.name == "logits" or not shared]
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    bound = [value.numpy() for value in binding.get_outputs()]
    return next(value for value in bound if value.ndim == 3)


def _run_genai(runtime: Any, folder: Path) -> Any:
    """Return the tokens that follow a prompt of the length in `prompt.json`, greedily."""
    model = runtime.Model(str(folder))
    prompt = json.loads((folder / "prompt.json").read_text())
    parameters = runtime.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + _NEW_TOKENS, do_sample=False)
    if hasattr(runtime.Generator, "append_tokens"):
        generator = runtime.Generator(model, parameters)
        generator.append_tokens(np.array(prompt, np.int32))
    else:
        parameters.input_ids = np.array([prompt], np.int32)  # a batch of one
        generator = runtime.Generator(model, parameters)
    while not generator.is_done():
        if hasattr(generator, "compute_logits"):
            generator.compute_logits()
        generator.generate_next_token()
    return np.array(generator.get_sequence(0), np.int64)


if __name__ == "__main__":
    main()
