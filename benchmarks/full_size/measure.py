"""Runs a command in a separate process: its seconds, those of processors, and the peak of its resident memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LAST_LINES = 12


@dataclass(frozen=True)
class Measured:
    """A command's time and memory.

    `processor_seconds`: of all its threads and children, in user code and the kernel; other work on the machine changes
    them little. `peak_bytes`: the largest resident set of it or of one of its children.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    failed: str | None = None


def run(command: Sequence[str], *, cwd: Path | None = None) -> Measured:
    """Run a command to its end. Its output is used only for the message if it fails."""
    with tempfile.TemporaryFile() as printed:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, stdout=printed, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # waited for: Popen must not wait again
        seconds = time.perf_counter() - started
        failed = None
        if process.returncode:
            printed.seek(0)
            last = printed.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
            failed = f"exit {process.returncode}: " + "\n".join(last)
    busy = usage.ru_utime + usage.ru_stime
    return Measured(seconds, busy, usage.ru_maxrss * 1024, failed)  # kilobytes on Linux
