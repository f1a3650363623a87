"""An adb server of the tests' own, with a port and keys of its own: a developer's phones are untouched."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.phone.device import Phone


def adb_environment(home: Path) -> dict[str, str]:
    """Return the variables that lead adb to a server of its own, with keys below `home`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {"ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(home), "ANDROID_SDK_HOME": str(home)}
    return own | {"PATH": os.environ["PATH"]}


def adb(environment: dict[str, str], *arguments: str) -> str:
    """Run adb, and return what it prints."""
    done = subprocess.run(["adb", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@contextmanager
def connected(environment: dict[str, str], root: Path) -> Iterator[Phone]:
    """Yield a phone that the adb server is connected to."""
    phone = Phone(root)
    phone.power_on()
    try:
        adb(environment, "connect", phone.serial)
        yield phone
    finally:
        adb(environment, "disconnect", phone.serial)
        phone.power_off()
