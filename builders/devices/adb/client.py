"""adb's program: found, its server checked, commands run on one phone, and every failure as an error that says what.

A command on the phone ends with a line of its own, `phipack:CODE`. Where that line is missing, the connection was lost,
whatever adb's exit code: then the phone is looked for again, and its boot id shows whether it was restarted.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.errors import DeviceError, DeviceUnreachableError, SetupError
from targets.other_process import not_started

CALL_SECONDS = 60.0  # a question to a phone; far longer than any answer takes
RETURN_SECONDS = 90.0  # a phone that was restarted is back within this
_POLL_SECONDS = 0.5
_PORT = 5037
_END = "phipack:"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CLIENT_VERSION = re.compile(r"Android Debug Bridge version \d+\.\d+\.(\d+)")
_INSTALL = (
    "install it (Debian and Ubuntu: apt-get install adb; macOS: brew install android-platform-tools), or set "
    "ANDROID_HOME"
)
_LOST = (
    "device offline",
    "not found",
    "no devices/emulators",
    "closed",
    "connection reset",
    "couldn't read from device",
)


@dataclass(frozen=True)
class Answer:
    """What a command on the phone printed. `code`: its exit code."""

    code: int
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The last lines of what it printed, for messages."""
        lines = (self.errors.strip() or self.output.strip()).splitlines()[-3:]
        return " | ".join(line.strip() for line in lines) or "it printed nothing"


class LostConnectionError(DeviceUnreachableError):
    """The connection to the phone ended in the middle of a command. Whoever asked finds out why."""


def adb_program() -> str:
    """Return the path of adb. Raises `SetupError` where it is not installed."""
    for home in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if (folder := os.environ.get(home)) and (program := Path(folder, "platform-tools", "adb")).is_file():
            return str(program)
    if (found := shutil.which("adb")) is None:
        raise SetupError("adb is not installed here, and no phone can be reached without it", fix=_INSTALL)
    return found


def call(*arguments: str, seconds: float = CALL_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run adb, and return its exit code and what it printed.

    Raises:
        DeviceUnreachableError: no answer within `seconds`. DeviceError: adb can't be run, or its server can't start.
    """
    command = [adb_program(), *arguments]
    try:
        # A session of its own: Ctrl-C at the terminal ends neither adb in mid-answer nor the server that it starts.
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=seconds,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceUnreachableError(
            f"adb {_shown(arguments)} gave no answer within {seconds:.0f} s",
            fix="check the cable and the phone's screen; adb kill-server restarts adb",
        ) from error
    except OSError as error:
        problem, fix = not_started(command[0], error)
        raise DeviceError(problem, fix=_INSTALL if isinstance(error, FileNotFoundError) else fix) from error
    if "cannot connect to daemon" in done.stderr or "failed to start daemon" in done.stderr:
        raise _not_started(done.stderr)
    return done


def require_own_server() -> None:
    """Start adb's server where none runs. Refuse one of another version, which any command of this adb would end.

    Raises:
        SetupError: a server of another version runs, and may be at work for somebody.
    """
    running = _server_version()
    if running is None:
        started = call("start-server")
        if started.returncode:
            raise _not_started(started.stderr)
        return
    client = _CLIENT_VERSION.search(call("version").stdout)
    if client is not None and int(client[1]) != running:
        raise SetupError(
            f"adb's server on port {_server_port()} has version {running}, and {adb_program()} has {client[1]}",
            fix="use the adb that started it (first in PATH, or in ANDROID_HOME), or end the server with "
            "adb kill-server once nobody needs it",
        )


@dataclass(frozen=True)
class Phone:
    """One phone, by the serial number that `adb devices` shows. `return_seconds`: how long it is waited for."""

    serial: str
    return_seconds: float = RETURN_SECONDS

    def run(self, command: str, *, seconds: float = CALL_SECONDS) -> Answer:
        """Run a shell command on the phone, and return what it printed.

        Raises:
            LostConnectionError: the connection ended before the command did.
            DeviceError: the phone is not there, or doesn't allow it.
        """
        done = call("-s", self.serial, "shell", f"({command}\n) </dev/null; echo {_END}$?", seconds=seconds)
        output, separator, code = done.stdout.replace("\r\n", "\n").rpartition(_END)
        if separator and code.strip().isdigit():
            return Answer(int(code), output, done.stderr)
        raise self._refusal(done.stderr)

    def ask(self, command: str) -> str:
        """Return what a command prints; an error where its exit code is not 0. Raises as `run` does."""
        answer = self.run(command)
        if answer.code:
            raise DeviceError(
                f"{self.serial}: {command.split(maxsplit=1)[0]} failed on the phone: {answer.last_words}",
                fix=f"try it by hand: adb -s {self.serial} shell {command!r}",
            )
        return answer.output

    def push(self, source: Path, remote: str, *, seconds: float) -> None:
        """Copy a file to the phone. Raises `LostConnectionError`, or `DeviceError` where the phone refuses it."""
        done = call("-s", self.serial, "push", str(source), remote, seconds=seconds)
        if done.returncode == 0:
            return
        said = _last_error(done.stderr + done.stdout)
        if "No space left" in said:
            raise full(self.serial)
        if any(sign in said for sign in _LOST):
            raise LostConnectionError(f"{self.serial}: the connection ended while files were pushed", fix=self._check)
        raise DeviceError(f"{self.serial}: adb can't push {source.name}: {said}", fix=self._check)

    def boot_id(self) -> str:
        """Return an id that changes when the phone restarts."""
        return self.ask(f"cat {_BOOT_ID}").strip()

    def state(self) -> str | None:
        """Return the state that `adb devices` shows, such as `device`; None where the phone is not listed."""
        return states().get(self.serial)

    def comes_back(self) -> bool:
        """Wait until the phone answers again; False where it doesn't in time. Connects one over TCP again."""
        end = time.monotonic() + self.return_seconds
        while True:
            if self._is_ready():
                return True
            if time.monotonic() >= end:
                return False
            if ":" in self.serial:
                call("disconnect", self.serial)
                call("connect", self.serial)
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        if self.state() != "device":
            return False
        try:
            return self.run("true", seconds=10).code == 0
        except DeviceError:
            return False

    def _refusal(self, said: str) -> DeviceError:
        """Return the error for a command that adb did not finish."""
        words, state = _last_error(said), self.state()
        if state == "unauthorized":
            return unauthorized(self.serial)
        if state is None and "not found" in words:
            return DeviceUnreachableError(f"{self.serial}: no such phone is connected{_others()}", fix=self._check)
        return LostConnectionError(f"{self.serial}: the connection to the phone ended: {words}", fix=self._check)

    @property
    def _check(self) -> str:
        return "see adb devices; use another cable or port, keep the phone unlocked, then run the same command again"


def states() -> dict[str, str]:
    """Return the state of each phone that adb's server sees, by serial number."""
    lines = call("devices").stdout.splitlines()
    parted = (line.split("\t", 1) for line in lines if "\t" in line)
    return {serial: state.strip() for serial, state in parted}


def unauthorized(serial: str) -> DeviceError:
    """Return the error for a phone on which nobody has allowed this computer yet."""
    return DeviceError(
        f"{serial}: the phone does not allow this computer to use it (unauthorized)",
        fix="unlock the phone and accept 'Allow USB debugging?'; if it doesn't ask, adb kill-server and replug it",
    )


def full(serial: str) -> DeviceError:
    """Return the error for a phone that ran out of space while files were pushed."""
    return DeviceError(
        f"{serial}: the phone's storage is full; what was pushed has been removed",
        fix="free space on the phone (Settings, Storage), or measure a smaller recipe",
    )


def _not_started(said: str) -> DeviceError:
    return DeviceError(
        f"adb's server can't be started: {_last_line(said)}",
        fix=f"see which program listens on port {_server_port()}, or set ANDROID_ADB_SERVER_PORT to a free port",
    )


def _others() -> str:
    known = ", ".join(sorted(states()))
    return f"; connected: {known}" if known else "; none is connected"


def _server_port() -> int:
    text = os.environ.get("ANDROID_ADB_SERVER_PORT", "")
    return int(text) if text.isdigit() else _PORT


def _server_version() -> int | None:
    """Ask the server for its version, as adb itself does (SERVICES.TXT: host:version); None where none answers."""
    question = b"host:version"
    try:
        with socket.create_connection(("127.0.0.1", _server_port()), timeout=5) as server:
            server.sendall(b"%04x" % len(question) + question)
            answer = server.makefile("rb").read(12)
        return int(answer[8:], 16) if answer[:4] == b"OKAY" else None
    except (OSError, ValueError):
        return None


def _shown(arguments: Sequence[str]) -> str:
    text = " ".join(arguments)
    return text if len(text) < 80 else text[:77] + "…"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _last_error(text: str) -> str:
    """Return adb's own error line, which need not be its last one."""
    errors = [line.strip() for line in text.splitlines() if "error" in line]
    return (errors[-1].removeprefix("adb: ").removeprefix("error: ") if errors else _last_line(text)) or "no reason"
