"""Runs a vendor's command line tool (`gcloud`, `xcrun`), within a time, and so that Ctrl-C reaches it first."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import BinaryIO

from targets.errors import DeviceError, DeviceUnreachableError, SetupError
from targets.other_process import not_started

_GRACE_SECONDS = 60.0  # in which a tool cancels what it has started elsewhere
OUTPUT_LIMIT = 8 << 20
_LAST_LINES = 3


@dataclass(frozen=True)
class Ran:
    """What a tool printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """Return the last lines of what it said, for a message."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return " | ".join(lines[-_LAST_LINES:])[:500] or "it printed nothing"


def tool_path(name: str, fix: str) -> str:
    """Return the path of a program. Raises `SetupError` with this fix where it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise SetupError(f"{name} is not installed", fix=fix)
    return found


def run_tool(command: list[str], seconds: float) -> Ran:
    """Run a tool to its end. Its output goes through files, so that it is bounded here and never holds the tool up.

    On Ctrl-C, and when the time is over, it is asked to end as by Ctrl-C, so that it cancels what runs elsewhere.

    Raises:
        DeviceUnreachableError: it took longer. DeviceError: it can't be started.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(  # noqa: S603 - a program found by its name, with arguments of our own
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        except OSError as error:
            problem, fix = not_started(command[0], error)
            raise DeviceError(problem, fix=fix) from error
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            _end(process)
            name = " ".join(command[:4])
            raise DeviceUnreachableError(f"{name} took longer than {seconds:.0f} s", fix="try again") from error
        except BaseException:
            _end(process)
            raise
        return Ran(code, _text(stdout), _text(stderr))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _text(stream: BinaryIO) -> str:
    stream.seek(0)
    return stream.read(OUTPUT_LIMIT).decode("utf-8", "replace")
