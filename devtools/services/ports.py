"""Free ports, and waiting for servers to start and to end."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


class ServiceError(Exception):
    """A server did not start, or ended by itself."""


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def wait_until(
    answers: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, name: str, seconds: float = 60
) -> None:
    """Wait until a server answers. Raises `ServiceError` with the end of its log if it does not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answers():
            return
        if process.poll() is not None:
            raise ServiceError(f"{name} ended with {process.returncode}:\n{_end_of(log)}")
        time.sleep(0.05)
    raise ServiceError(f"{name} does not answer after {seconds:.0f} s:\n{_end_of(log)}")


def stop(process: subprocess.Popen[bytes], *, seconds: float = 10) -> None:
    """Ask a server to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
