"""llama.cpp's own steps: `convert_hf_to_gguf.py` to float16, then `llama_model_quantize`, as llama-quantize does."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from builders.quantization.calibration.imatrix_file import read_means
from devtools.packages import LLAMA_CPP, pinned

_PARTS = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}  # enum llama_ftype


def converter(cache: Path) -> Path:
    """Return the path of llama.cpp's converter, unpacked from llama-cpp-python's sdist (77 MB, downloaded once)."""
    place = cache / "peers" / "llama.cpp"
    script = place / "convert_hf_to_gguf.py"
    if not script.is_file():
        with tarfile.open(pinned(LLAMA_CPP, cache)) as tar:
            for member in tar:
                inside = member.name.partition("/vendor/llama.cpp/")[2]
                if inside.startswith(_PARTS) and member.isfile():
                    member.name = inside
                    tar.extract(member, place, filter="data")
    return script


def convert(checkpoint: Path, out: Path, cache: Path) -> None:
    """Convert a checkpoint to a float16 GGUF file."""
    script = converter(cache)
    environment = {**os.environ, "PYTHONPATH": str(script.parent / "gguf-py")}
    command = [sys.executable, str(script), str(checkpoint), "--outtype", "f16", "--outfile", str(out)]
    subprocess.run(command, check=True, env=environment, capture_output=True)


def importance(tool: Path, source: Path, text: Path, out: Path) -> None:
    """Measure an importance matrix of a GGUF file with llama-imatrix, over a text's first 32 windows of 512 tokens."""
    command = [str(tool), "-m", str(source), "-f", str(text), "-o", str(out), "-c", "512", "--chunks", "32"]
    subprocess.run([*command, "--parse-special", "--no-ppl", "-t", "2"], check=True, capture_output=True)


def quantize(source: Path, out: Path, file_type: str, *, threads: int = 2, imatrix: Path | None = None) -> None:
    """Quantize a GGUF file as llama-quantize does without options, or with `--imatrix`."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[file_type]
    parameters.nthread = threads
    if imatrix is not None:
        parameters.imatrix = _imatrix_data(imatrix)
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters))
    if code:
        raise RuntimeError(f"llama_model_quantize ended with {code}")


def _imatrix_data(path: Path) -> Any:
    """Return an importance matrix as an array of llama_model_imatrix_data; its last entry is empty."""
    import llama_cpp

    means = read_means(path)
    entries = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
    for entry, (name, values) in zip(entries, means.items(), strict=False):
        entry.name = name.encode()
        entry.size = len(values)
        entry.data = (ctypes.c_float * len(values))(*values.tolist())
    return entries
