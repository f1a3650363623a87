"""Processes of their own that start in milliseconds: forked off one that has imported MLflow and the command line.

For tests of what only a process shows: a lock that it holds, a signal that ends it. Where the start itself is what is
tested, the environment that Python reads then or the modules that are imported, take `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.command_line import command_environment

ANY_SPREAD = 1e9  # between runs that count as a speed: other work on the machine that tests run on must not decide
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.warm_imports"])


class WarmProcess:
    """One process. `stderr`: what it prints there, unbuffered. What it prints on standard output is lost."""

    def __init__(
        self,
        program: Callable[..., int],
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        read, write = _CONTEXT.Pipe(duplex=False)
        settings = dict(command_environment() if environment is None else environment)
        self._process = _CONTEXT.Process(target=_run, args=(program, arguments, folder, settings, write), daemon=True)
        self._process.start()
        write.close()
        self.stderr = os.fdopen(os.dup(read.fileno()), "rb", buffering=0)
        read.close()

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)

    def wait(self, seconds: float = 60) -> int | None:
        """Return its exit code, or minus the signal that ended it; None where it is still running then."""
        self._process.join(seconds)
        return self._process.exitcode

    def close(self) -> None:
        """Kill it, if it is still running."""
        self.send_signal(signal.SIGKILL)
        self.wait()
        self.stderr.close()


def phipack(*arguments: str) -> int:
    """Run a command of phipack."""
    from phipack.__main__ import main

    return main(list(arguments))


def python(program: str, *arguments: str) -> int:
    """Run a program's text, as `python -c` does."""
    sys.argv = ["-c", *arguments]
    exec(program, {"__name__": "__main__"})
    return 0


def _run(
    program: Callable[..., int],
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    stderr: Connection,
) -> None:
    os.dup2(stderr.fileno(), 2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background may have us ignore it
    sys.exit(program(*arguments))
