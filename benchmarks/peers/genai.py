"""onnxruntime-genai's model builder, in an environment separate from phipack's.

It needs onnx-ir, which phipack does not, and was measured with the versions pinned here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = (
    "torch==2.13.0",
    "transformers==5.23.0",
    "onnxruntime-genai==0.18.0",
    "onnxruntime==1.32.0",
    "onnx==1.23.2",
    "onnx-ir",
    "onnxscript",  # torch's own exporter (torch_dynamo.py) writes with it
)


def environment(cache: Path) -> Path:
    """Return the builder's Python. Its environment is created first if it is missing."""
    place = cache / "peers" / "genai-venv"
    python = place / "bin" / "python"
    done = place / ".installed"
    if not done.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        subprocess.run([*pip, *REQUIREMENTS], check=True)
        done.touch()
    return python


def command(checkpoint: Path, out: Path, precision: str, cache: Path, options: Sequence[str] = ()) -> list[str]:
    """Return the builder's command, for the CPU with its defaults (int4: round to nearest, symmetric, blocks of 32).

    `options`: its extra ones, such as `algo_config=k_quant_mixed`.

    Run it outside this repository: it imports its own module `builders`, which has the name of phipack's package. So
    PYTHONPATH is not read.
    """
    builder = [str(environment(cache)), "-E", "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint.resolve())]
    return [
        *builder,
        "-o",
        str(out.resolve()),
        "-p",
        precision,
        "-e",
        "cpu",
        "-c",
        str(cache / "peers" / "genai-cache"),
        *(["--extra_options", *options] if options else []),
    ]


def build(checkpoint: Path, out: Path, precision: str, cache: Path, options: Sequence[str] = ()) -> None:
    """Run the builder."""
    built = command(checkpoint, out, precision, cache, options)
    subprocess.run(built, check=True, capture_output=True, cwd=out.parent)
