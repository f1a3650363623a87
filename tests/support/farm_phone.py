"""A phone of a farm: a folder on this machine in which the script of builders/devices/farm_run really runs.

`getprop`, `dumpsys` and llama-bench are programs of ours that print what a Galaxy S24's do.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from builders.devices.farm_run.folder import OUT, SCRIPT, FarmFolder, script
from builders.devices.provider import DeviceSettings, MeasureRequest
from devtools.bundles import make_bundle
from tests.support.benchmark_files import llama_bench

PROPERTIES = """\
[ro.build.version.release]: [14]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [samsung]
[ro.product.model]: [SM-S921U]
[ro.soc.model]: [SM8650]
"""
BENCH = '#!/bin/sh\n[ "$2" = model.gguf ] || exit 9\necho "ggml: loading" >&2\ncat "$(dirname "$0")/answer.json"\n'
BROKEN = '#!/bin/sh\necho "error: failed to load model" >&2\nexit 1\n'


def request_of(folder: Path, bench: str = BENCH) -> MeasureRequest:
    """Return a request for a small gguf bundle, with a folder of programs."""
    bundle = make_bundle(folder / "bundle", {"model.gguf": b"weights" * 100, "tokenizer.json": b"{}"})
    runtime = folder / "runtime"
    runtime.mkdir()
    (runtime / "llama-bench").write_text(bench, "utf-8")
    (runtime / "libggml.so").write_bytes(b"library")
    return MeasureRequest(bundle, DeviceSettings(repeats=3), runtime, model="phi-3-mini-4k-instruct")


def run_on_phone(folder: FarmFolder, place: Path, answer: bytes | None = None) -> dict[str, bytes]:
    """Run the script with the folder's files, and return what it left in `out/`."""
    phone, tools = place / "phone", place / "bin"
    phone.mkdir()
    tools.mkdir()
    for name, path in folder.files.items():
        (phone / name).write_bytes(path.read_bytes())
    (phone / SCRIPT).write_bytes(script())
    (phone / "answer.json").write_bytes(llama_bench() if answer is None else answer)
    for name, text in (("getprop", PROPERTIES), ("dumpsys", "Current Battery Service state:\n  temperature: 312\n")):
        (tools / name).write_text(f"#!/bin/sh\ncat <<'EOF'\n{text}EOF\n", "utf-8")
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = ["sh", str(phone / SCRIPT), *folder.arguments.split()]
    subprocess.run(command, env=environment, check=False, timeout=30, capture_output=True)
    return {path.name: path.read_bytes() for path in (phone / OUT).iterdir()}
