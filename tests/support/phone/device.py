"""`Phone`: what is behind adbd. Files below a folder, this machine's programs, sensors, and faults to inject.

ROOT/data/local/tmp/…          what adb pushes to; /data/local/tmp in commands means this folder
ROOT/sys/class/power_supply/…  current and voltage of the battery
ROOT/boot_id, props, temperature, cooling, thermal_status, battery, quota
                               what `bin/` prints: getprop, dumpsys, df
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.phone.adbd import Connection

BIN = Path(__file__).parent / "bin"
_TMP = "/data/local/tmp"
PROPERTIES = {
    "ro.product.model": "SM-S921U",
    "ro.product.manufacturer": "samsung",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM8650",
    "ro.build.version.release": "15",
    "ro.product.cpu.abilist": "x86_64,arm64-v8a",  # this machine's programs run on it
}


@dataclass
class Fault:
    """What goes wrong, once, when a service whose text has `when` is asked for: `act` is called after `seconds`."""

    when: str
    act: Callable[[], None]
    seconds: float = 0.0
    times: int = 1


@dataclass
class Phone:
    """A phone. `authorized`: whether somebody has accepted the computer's key."""

    root: Path
    authorized: bool = True
    port: int = 0
    services: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    cut_after_bytes: int | None = None
    _connections: list[Connection] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _listener: socket.socket | None = None

    def __post_init__(self) -> None:
        self.tmp.mkdir(parents=True)
        (self.root / "proc").mkdir()
        self.battery_folder.mkdir(parents=True)
        self.write(temperature="28.0", cooling="0", thermal_status="0", battery="5")
        self.set_properties()
        self._new_boot()

    @property
    def tmp(self) -> Path:
        """The folder that commands call /data/local/tmp."""
        return self.root / _TMP[1:]

    @property
    def battery_folder(self) -> Path:
        return self.root / "sys/class/power_supply/battery"

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def banner(self) -> str:
        return (
            "device::ro.product.name=tests;ro.product.model=tests;ro.product.device=tests;features=shell_v2,cmd,stat_v2"
        )

    def write(self, **values: str) -> None:
        """Set sensors: `temperature`, `cooling` (°C lost at each look), `thermal_status`, `battery`, `quota`."""
        for name, value in values.items():
            (self.root / name).write_text(value + "\n")

    def set_properties(self, **changes: str) -> None:
        known = PROPERTIES | {name.replace("__", "."): value for name, value in changes.items()}
        (self.root / "props").write_text("".join(f"{name}={value}\n" for name, value in known.items()))

    def files(self) -> list[str]:
        """Return what is on the phone, below /data/local/tmp."""
        return sorted(str(path.relative_to(self.tmp)) for path in self.tmp.rglob("*"))

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def listed(self, name: str) -> list[str]:
        try:
            return sorted(path.name for path in self.path(name).iterdir())
        except OSError:
            return []

    def power_on(self) -> None:
        """Listen on a port of its own, the same one after a reboot."""
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port, self._listener = listener.getsockname()[1], listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def power_off(self) -> None:
        """Kill all programs, and go away."""
        self.unplug()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def unplug(self) -> None:
        """Go away for good. Programs go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection; new ones are accepted."""
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def reboot(self, seconds: float = 0.3) -> None:
        """Go away, kill all programs, and come back with another boot id."""
        self.power_off()
        self._new_boot()
        threading.Timer(seconds, self.power_on).start()

    def on(self, when: str, act: Callable[[], None], seconds: float = 0.0, times: int = 1) -> None:
        """Call `act` when a service whose text has `when` is asked for."""
        self.faults.append(Fault(when, act, seconds, times))

    def asked(self, service: str) -> None:
        """Note that a service was asked for, and do what was planned for it. A fault without delay comes first."""
        self.services.append(service)
        for fault in self.faults:
            if fault.times and fault.when in service:
                fault.times -= 1
                if fault.seconds:
                    threading.Timer(fault.seconds, fault.act).start()
                else:
                    fault.act()

    def take(self, count: int) -> None:
        """Count bytes that adb pushes. Raises `OSError` where the phone is full; may cut the connection."""
        if self.cut_after_bytes is not None:
            self.cut_after_bytes -= count
            if self.cut_after_bytes < 0:
                self.cut_after_bytes = None
                self.cut()
        quota = self.root / "quota"
        if quota.exists():
            used = sum(path.stat().st_size for path in self.tmp.rglob("*") if path.is_file())
            if used + count > int(quota.read_text()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Run a command with this machine's shell."""
        text = command.replace(_TMP, str(self.tmp)).replace("/sys/class", str(self.root / "sys/class"))
        text = text.replace("/proc/sys/kernel/random/boot_id", str(self.root / "boot_id"))
        environment = {
            "PATH": f"{BIN}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PHONE": str(self.root),
            "LC_ALL": "C",
        }
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            ["sh", "-c", text],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment,
            cwd=self.root,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def running(self) -> list[str]:
        """Return the command lines of all processes that the phone's programs have left or still run."""
        found = []
        sessions = {process.pid for process in self._processes}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) in sessions and state != "Z":
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def settled(self, seconds: float = 5.0) -> bool:
        """Wait until no program runs; True if that came within the time."""
        end = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def _new_boot(self) -> None:
        (self.root / "boot_id").write_text(f"{uuid.uuid4()}\n")

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, peer)
            self._connections.append(connection)
            threading.Thread(target=connection.serve, daemon=True).start()
