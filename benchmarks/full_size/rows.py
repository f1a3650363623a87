"""The builds at full size, by phipack and by the peers, and their bounds.

phipack's time is that of `phipack build` on the command line, up to the sealed bundle with its digests. A peer's time
is that of all steps that its users take to get the same artifact.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.full_size.measure import Measured, run
from benchmarks.peers import genai, llama_cpp
from targets.calibration import Calibration
from targets.recipes import RECIPES

GIB = 1 << 30
REPOSITORY = Path(__file__).resolve().parents[2]
FOUR_BIT = ("onnx-int4", "coreml-int4", "gguf-q4_0", "gguf-q4_k_m")


@dataclass(frozen=True)
class Bounds:
    """The bounds of a row; None means no bound."""

    peak_bytes: float | None = None
    peer_share: float | None = None  # of the peer's time
    seconds: float | None = None
    mini_times: float | None = None  # of mini's time with the same recipe


@dataclass
class Row:
    """One build: its model and recipe, its bounds, and the measurements of several runs by phipack and by the peer."""

    model: str
    recipe: str
    bounds: Bounds
    peer: str | None = None
    ours: list[Measured] = field(default_factory=list)
    theirs: list[Measured] = field(default_factory=list)
    artifact_bytes: int = 0


def planned() -> list[Row]:
    """Return all rows. Mini comes first, because medium's bounds depend on mini's times."""
    rows = [
        Row("mini", "onnx-int4", Bounds(2.5 * GIB, 0.15), "genai"),
        Row("mini", "onnx-fp16", Bounds(2.5 * GIB, 0.35), "torch dynamo"),
        Row("mini", "gguf-f16", Bounds(1.5 * GIB, 0.7), "llama.cpp"),
        Row("mini", "gguf-q8_0", Bounds(1.5 * GIB, 0.6), "llama.cpp"),
        Row("mini", "gguf-q4_0", Bounds(1.5 * GIB, 0.6), "llama.cpp"),
        Row("mini", "gguf-q4_k_m", Bounds(1.5 * GIB, 0.4), "llama.cpp"),
        Row("mini", "coreml-int4", Bounds(4 * GIB, seconds=60)),
    ]
    rows += [Row("phi-4-mini", recipe, Bounds(6 * GIB)) for recipe in RECIPES]
    rows += [Row("small", recipe, Bounds(6 * GIB)) for recipe in ("onnx-int4", "coreml-int4")]
    return rows + [Row("medium", recipe, Bounds(6 * GIB, mini_times=4.2)) for recipe in FOUR_BIT]


def build(checkpoint: Path, recipes: tuple[str, ...], out: Path, calibration: Calibration = "none") -> Measured:
    """Run `phipack build`, in a folder where nothing that a calibration measures is kept yet."""
    command = [sys.executable, "-m", "phipack", "--quiet", "build", str(checkpoint), "-o", str(out), "--replace"]
    command += ["--calibration", calibration]
    for recipe in recipes:
        command += ["--recipe", recipe]
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        return run(command, cwd=Path(place))


def build_peer(row: Row, checkpoint: Path, scratch: Path, cache: Path, converted: dict[str, Measured]) -> Measured:
    """Run the peer's steps. `converted`: the measurement of llama.cpp's converter, which several rows share."""
    return _PEERS[row.peer or ""](row, checkpoint, scratch, cache, converted)


def _genai(_row: Row, checkpoint: Path, scratch: Path, cache: Path, _converted: dict[str, Measured]) -> Measured:
    out = scratch / "peer-onnx-int4"
    shutil.rmtree(out, ignore_errors=True)
    return run(genai.command(checkpoint, out, "int4", cache), cwd=scratch)


def _dynamo(_row: Row, checkpoint: Path, scratch: Path, cache: Path, _converted: dict[str, Measured]) -> Measured:
    out = scratch / "peer-onnx-fp16" / "model.onnx"
    script = REPOSITORY / "benchmarks" / "peers" / "torch_dynamo.py"
    return run([str(genai.environment(cache)), str(script), str(checkpoint), str(out)], cwd=scratch)


def _llama(row: Row, checkpoint: Path, scratch: Path, cache: Path, converted: dict[str, Measured]) -> Measured:
    half = scratch / "peer-gguf-f16.gguf"
    if "f16" not in converted:
        call = "from pathlib import Path; from benchmarks.peers import llama_cpp as peer; "
        call += f"peer.convert(Path({str(checkpoint)!r}), Path({str(half)!r}), Path({str(cache)!r}))"
        llama_cpp.converter(cache)
        converted["f16"] = run([sys.executable, "-c", call], cwd=REPOSITORY)
    first = converted["f16"]
    kind = row.recipe.removeprefix("gguf-")
    if kind == "f16" or first.failed:
        return first
    call = "from pathlib import Path; from benchmarks.peers import llama_cpp as peer; "
    call += f"peer.quantize(Path({str(half)!r}), Path({str(scratch / f'peer-{row.recipe}.gguf')!r}), {kind!r})"
    second = run([sys.executable, "-c", call], cwd=REPOSITORY)
    return Measured(
        first.seconds + second.seconds,
        first.processor_seconds + second.processor_seconds,
        max(first.peak_bytes, second.peak_bytes),
        second.failed,
    )


Peer = Callable[[Row, Path, Path, Path, dict[str, Measured]], Measured]
_PEERS: dict[str, Peer] = {"genai": _genai, "torch dynamo": _dynamo, "llama.cpp": _llama}
