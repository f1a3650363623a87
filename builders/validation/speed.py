"""Speed and memory of a bundle on this host, measured in a process of its own so that nothing else counts.

    python -m builders.validation.speed BUNDLE SPREAD      prints one JSON object, the fields of `Speed`

On a host other work gets in the way. Runs are repeated until `RUNS` in a row agree, at most `MOST_RUNS` times, and none
is begun after `MOST_SECONDS` that is not one of the first `RUNS`. Where they never agree, there is no figure: a number
would be the other work's.

A runtime that aborts (out of memory, a bad graph) takes that process down and not the caller.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from builders.runtime.isolation import died
from builders.runtime.session import Session
from builders.runtime.sessions import open_for_whole_context
from registry.bundle.folder import Bundle, open_bundle
from targets.errors import MeasurementError, PhipackError
from targets.evidence_details import SpeedRuns
from targets.other_process import not_started
from targets.own_process import is_own_process

PROMPT_TOKENS = 128
NEW_TOKENS = 32
RUNS = 3
MOST_RUNS = 9
MOST_SECONDS = 60.0  # three runs of a 4-bit model of 3.8 billion parameters take half of it on two quiet cores
MOST_SPREAD = 0.25  # of the median, between the fastest and the slowest of `RUNS`
_TIME_LIMIT_SECONDS = 1800
_TIMES = Path("/proc/stat")  # Linux alone


@dataclass(frozen=True)
class Speed:
    """The last `RUNS` runs, in tokens a second; bytes of peak resident memory of the whole process.

    `other_load`: how many processors other processes kept busy meanwhile.
    """

    prefill: Sequence[float]
    decode: Sequence[float]
    peak_memory_bytes: int
    other_load: float

    @property
    def runs(self) -> tuple[SpeedRuns, SpeedRuns]:
        """Both speeds as evidence keeps them, whether the runs agree or not."""
        named = {"prefill_tokens_per_second": self.prefill, "decode_tokens_per_second": self.decode}
        prefill, decode = (
            SpeedRuns(figure=name, values=tuple(values), spread=spread(values), other_load=self.other_load)
            for name, values in named.items()
        )
        return prefill, decode


def measure_speed(bundle: Bundle) -> Speed:
    """Run a bundle in a fresh process, and return its speed and peak memory.

    Raises:
        MeasurementError: the runtime refuses the bundle, or the process dies; the problem has its last lines.
    """
    command = [sys.executable, "-m", "builders.validation.speed", str(bundle.path), str(MOST_SPREAD)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIME_LIMIT_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{bundle.path}: speed was not measured within {_TIME_LIMIT_SECONDS} s",
            fix="run it on a faster or less busy machine, or build a recipe with fewer bits",
        ) from error
    except OSError as error:
        problem, fix = not_started(f"the process that measures {bundle.path}", error)
        raise MeasurementError(problem, fix=fix) from error
    except subprocess.CalledProcessError as error:
        raise died(bundle.path, error.returncode, error.stderr) from error
    said = json.loads(done.stdout.splitlines()[-1])  # the last line is ours, whatever the runtime printed before it
    if "problem" in said:
        raise MeasurementError(said["problem"], fix=said["fix"])
    return Speed(**said)


def lengths(context_length: int) -> tuple[int, int]:
    """Return how many tokens of a prompt are read, and how many are written: fewer where the context is short."""
    prompt = min(PROMPT_TOKENS, context_length // 2)
    return prompt, min(NEW_TOKENS, context_length - prompt)


def spread(values: Sequence[float]) -> float:
    """Return how far values lie apart: (largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def agree(values: Sequence[float], most_spread: float | None = None) -> bool:
    """Return whether runs are near enough to one another to be the bundle's speed; by default `MOST_SPREAD`."""
    return spread(values) <= (MOST_SPREAD if most_spread is None else most_spread)


def agreeing(runs: Iterator[tuple[float, float]], most_spread: float) -> list[tuple[float, float]]:
    """Return the first `RUNS` runs in a row whose two speeds both agree; the last ones where none do."""
    last: list[tuple[float, float]] = []
    end = time.monotonic() + MOST_SECONDS
    for number, run in enumerate(runs, 1):
        last = [*last[1 - RUNS :], run]
        if len(last) < RUNS:
            continue
        is_over = number == MOST_RUNS or time.monotonic() >= end
        if is_over or all(agree(speeds, most_spread) for speeds in zip(*last, strict=True)):
            break
    return last


def time_session(session: Session, prompt: int, new: int) -> Iterator[tuple[float, float]]:
    """Yield prefill and decode speed of run after run, in tokens a second, on random ids (speed depends on none)."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 256, size=prompt)
    session.prefill(tokens)  # a warm-up, for caches and memory
    while True:
        started = time.perf_counter()
        logits = session.prefill(tokens)
        between = time.perf_counter()
        for _ in range(new):
            logits = session.step(int(logits.argmax()))
        yield prompt / (between - started), new / (time.perf_counter() - between)


def main(path: Path, most_spread: float) -> None:
    """Measure in this process, and print the figures."""
    try:
        said = asdict(_measure(open_bundle(path), most_spread))
    except PhipackError as error:
        said = {"problem": error.problem, "fix": error.fix}
    print("\n" + json.dumps(said))  # noqa: T201


def _measure(bundle: Bundle, most_spread: float) -> Speed:
    prompt, new = lengths(bundle.manifest.model.context_length)
    with open_for_whole_context(bundle) as session:
        runs = time_session(session, prompt, new)
        before = _Clocks.now()
        prefill, decode = zip(*agreeing(runs, most_spread), strict=True)
        load = _Clocks.now().other_load(before)
    return Speed(prefill, decode, _peak_memory_bytes(), load)


@dataclass(frozen=True)
class _Clocks:
    """Seconds: of the wall, of this process on all processors, and of all processes, None where that is not known."""

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> _Clocks:
        return cls(time.perf_counter(), time.process_time(), _busy_seconds())

    def other_load(self, before: _Clocks) -> float:
        """Return how many processors other processes kept busy since then; by the system's load where it must be."""
        took, own = self.wall - before.wall, self.own - before.own
        known = self.all is not None and before.all is not None
        busy = (self.all or 0.0) - (before.all or 0.0) if known else os.getloadavg()[0] * took
        return round(max(0.0, (busy - own) / took), 2)


def _busy_seconds() -> float | None:
    if not _TIMES.is_file():
        return None
    user, nice, system, _idle, _waiting, *others = map(int, _TIMES.read_text("ascii").split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


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
    main(Path(sys.argv[1]), float(sys.argv[2]))
