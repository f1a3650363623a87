"""Speed and memory of a bundle on this host, measured in a process of its own so that nothing else counts.

    python -m builders.validation.speed BUNDLE      prints one JSON object, the fields of `Speed`

A runtime that aborts (out of memory, a bad graph) takes that process down and not the caller.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from builders.runtime.isolation import died
from builders.runtime.session import Session
from builders.runtime.sessions import open_for_whole_context
from registry.bundle.folder import Bundle, open_bundle
from targets.errors import MeasurementError, PhipackError
from targets.own_process import is_own_process

PROMPT_TOKENS = 128
NEW_TOKENS = 32
RUNS = 3
_TIME_LIMIT_SECONDS = 1800


@dataclass(frozen=True)
class Speed:
    """Medians of several runs. Tokens a second; bytes of peak resident memory of the whole process."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    peak_memory_bytes: int


def measure_speed(bundle: Bundle) -> Speed:
    """Run a bundle in a fresh process, and return its speed and peak memory.

    Raises:
        MeasurementError: the runtime refuses the bundle, or the process dies; the problem has its last lines.
    """
    command = [sys.executable, "-m", "builders.validation.speed", str(bundle.path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIME_LIMIT_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{bundle.path}: speed was not measured within {_TIME_LIMIT_SECONDS} s",
            fix="run it on a faster or less busy machine, or build a recipe with fewer bits",
        ) from error
    except subprocess.CalledProcessError as error:
        raise died(bundle.path, error.returncode, error.stderr) from error
    said = json.loads(done.stdout.splitlines()[-1])  # the last line is ours, whatever the runtime printed before it
    if "problem" in said:
        raise MeasurementError(said["problem"], fix=said["fix"])
    return Speed(**said)


def time_session(session: Session, prompt: int, new: int, runs: int) -> tuple[float, float]:
    """Return median prefill and decode speed, tokens a second, on random ids (speed does not depend on them)."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 256, size=prompt)
    session.prefill(tokens)  # a warm-up, for caches and memory
    prefill, decode = [], []
    for _ in range(runs):
        started = time.perf_counter()
        logits = session.prefill(tokens)
        between = time.perf_counter()
        for _ in range(new):
            logits = session.step(int(logits.argmax()))
        ended = time.perf_counter()
        prefill.append(prompt / (between - started))
        decode.append(new / (ended - between))
    return statistics.median(prefill), statistics.median(decode)


def main(path: Path) -> None:
    """Measure in this process, and print the figures."""
    try:
        said = asdict(_measure(open_bundle(path)))
    except PhipackError as error:
        said = {"problem": error.problem, "fix": error.fix}
    print("\n" + json.dumps(said))  # noqa: T201


def _measure(bundle: Bundle) -> Speed:
    context = bundle.manifest.model.context_length
    prompt = min(PROMPT_TOKENS, context // 2)
    with open_for_whole_context(bundle) as session:
        prefill, decode = time_session(session, prompt, min(NEW_TOKENS, context - prompt), RUNS)
    return Speed(prefill, decode, _peak_memory_bytes())


def _peak_memory_bytes() -> int:
    """Return this process's peak resident memory: VmHWM on Linux, where ru_maxrss includes the parent's before exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    is_own_process()
    main(Path(sys.argv[1]))
