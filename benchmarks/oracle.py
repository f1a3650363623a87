"""Time and memory of the oracle at the released models' real sizes, with random weights.

    python -m benchmarks.oracle [--model mini] [--layers N] [--scratch DIR]

Each shape is measured in a process of its own: what importing the libraries takes, what the oracle takes, its peak of
resident memory, and how far float32 itself is apart. `--layers` writes fewer layers to the disk; the oracle reads two.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from devtools import synthetic
from phipack.tables import table

REPOSITORY = Path(__file__).parents[1]
GIB = 1 << 30
LONG = {  # as the 128k releases, whose factors rise to about 65
    "max_position_embeddings": 131072,
    "sliding_window": 262144,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + 0.02 * place for place in range(48)],
        "long_factor": [1.0 + 1.35 * place for place in range(48)],
    },
}
COLUMNS = ("shape", "sequences", "import s", "oracle s", "peak GiB", "of it imports", "log-probabilities", "states")


def measure(folder: Path) -> dict[str, float | str]:
    """Ask the oracle about a checkpoint in this process."""
    started = time.perf_counter()
    import torch
    import transformers

    from builders.checkpoint import open_checkpoint
    from builders.oracle import ask_oracle

    assert transformers.AutoModelForCausalLM
    assert transformers.AutoTokenizer
    torch.zeros(8, 8) @ torch.zeros(8, 8)
    checkpoint = open_checkpoint(folder)
    imported, before = time.perf_counter(), _peak_bytes()
    agreement = ask_oracle(checkpoint)  # without a cache: nothing is recorded, and the digest is not needed
    return {
        "import_seconds": imported - started,
        "oracle_seconds": time.perf_counter() - imported,
        "imports_bytes": before,
        "peak_bytes": _peak_bytes(),
        "log_probability": agreement.log_probability_difference,
        "state": agreement.state_difference,
        "on": agreement.on,
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def _row(name: str, folder: Path) -> tuple[object, ...]:
    command = [sys.executable, "-m", "benchmarks.oracle", "--measure", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return (
        name,
        found["on"].rpartition("layers, ")[2],
        f"{found['import_seconds']:.1f}",
        f"{found['oracle_seconds']:.1f}",
        f"{found['peak_bytes'] / GIB:.2f}",
        f"{found['imports_bytes'] / GIB:.2f}",
        f"{found['log_probability']:.1e}",
        f"{found['state']:.1e}",
    )


def main(arguments: list[str]) -> None:
    """Write the checkpoint, and measure it as it is and, for mini and medium, with longrope."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=synthetic.MODELS, default="mini")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.measure is not None:
        print(json.dumps(measure(asked.measure)))
        return
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        folder = synthetic.write_synthetic(asked.model, Path(scratch) / asked.model, layers=asked.layers)
        rows = [_row(asked.model, folder)]
        if asked.model == "mini":
            path = folder / "config.json"
            path.write_text(json.dumps(json.loads(path.read_bytes()) | LONG), "utf-8")
            rows.append(_row("mini-128k", folder))
        shutil.rmtree(folder)
        print(table(COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
