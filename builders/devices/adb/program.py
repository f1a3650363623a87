"""A program on a phone, run once and watched: memory, current and voltage while it runs, its output afterwards.

A shell script on the phone starts it, and prints a line twice a second. So the phone notices when the connection is
lost, as the next line can't be written, and ends the program; and this side notices a connection that hangs. What the
script prints:

    pid NUMBER
    sample SECONDS KIB MICROAMPERES MICROVOLTS STATUS     VmHWM; - for what can't be read; Android's thermal status
    ended CODE
"""

from __future__ import annotations

import queue
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from builders.devices.adb.client import LostConnectionError, Phone, adb_program
from builders.devices.adb.storage import HOME
from targets.errors import DeviceError, DeviceUnreachableError, MeasurementError
from targets.other_process import not_started

RUN = f"{HOME}/run"
_SILENCE_SECONDS = 30.0  # without a line: the connection hangs
_POWER = "/sys/class/power_supply/battery"  # Linux: Documentation/ABI/testing/sysfs-class-power
_OUTPUT_LIMIT = 4 << 20
_SIGNALLED = 128
_BORDER = "====phipack===="
_SCRIPT = """
rm -rf {run} && mkdir -p {run} || exit 97
finish() {{ [ -n "$pid" ] && kill -9 $pid 2>/dev/null; exit 98; }}
trap finish HUP INT TERM PIPE
cd {folder} || exit 97
LD_LIBRARY_PATH={folder} {command} > {run}/out 2> {run}/err < /dev/null &
pid=$!
echo $pid > {run}/pid
echo pid $pid || finish
look=0
status=-
while kill -0 $pid 2>/dev/null; do
  hwm=
  while read -r key value unit; do [ "$key" = VmHWM: ] && hwm=$value; done < /proc/$pid/status 2>/dev/null
  [ -z "$hwm" ] && [ $look -gt 0 ] && break
  now=-; current=-; voltage=-
  read -r now rest < /proc/uptime
  {{ read -r current < {power}/current_now; }} 2>/dev/null
  {{ read -r voltage < {power}/voltage_now; }} 2>/dev/null
  if [ $((look % 4)) -eq 0 ]; then
    status=$(dumpsys thermalservice 2>/dev/null | grep -m 1 'Thermal Status'); status=${{status##*: }}
  fi
  look=$((look + 1))
  echo sample $now ${{hwm:--}} ${{current:--}} ${{voltage:--}} ${{status:--}} || finish
  if [ $look -lt 5 ]; then sleep 0.1; else sleep 0.5; fi
done
wait $pid
code=$?
rm -f {run}/pid
echo ended $code
"""


@dataclass(frozen=True)
class Sample:
    """One look while the program ran. `seconds`: of the phone's uptime. None: the phone doesn't say."""

    seconds: float
    peak_bytes: int | None
    microamperes: int | None
    microvolts: int | None
    status: int | None


@dataclass(frozen=True)
class Finished:
    """A program that has ended with code 0: what it printed, and the samples."""

    output: str
    errors: str
    samples: tuple[Sample, ...]

    @property
    def peak_bytes(self) -> int | None:
        """Its peak resident memory."""
        return max((one.peak_bytes for one in self.samples if one.peak_bytes is not None), default=None)

    @property
    def worst_status(self) -> int | None:
        """The highest thermal status while it ran."""
        return max((one.status for one in self.samples if one.status is not None), default=None)

    def joules(self, seconds: float) -> float | None:
        """Return the energy that the battery gave in the last `seconds` of the run; None where that isn't known.

        The sign of the current differs between makers: its size counts. A phone that runs a program draws some: 0
        stands for a current that is not measured.
        """
        known = [
            (one.seconds, abs(one.microamperes * 1e-6) * (one.microvolts * 1e-6))
            for one in self.samples
            if one.microamperes and one.microvolts
        ]
        if not known or known[-1][0] - known[0][0] < seconds / 2:
            return None
        recent = [watts for when, watts in known if when >= known[-1][0] - seconds]
        return sum(recent) / len(recent) * seconds


@dataclass(frozen=True)
class PhoneProgram:
    """Runs programs of `folder` (a path on the phone), each for at most `seconds`."""

    phone: Phone
    folder: str
    seconds: float

    def run(self, arguments: Sequence[str]) -> Finished:
        """Run one program to its end.

        Raises:
            MeasurementError: it ended with another code than 0.
            LostConnectionError: the connection ended; on the phone, the program ends with the script's next line.
            DeviceError: it hung, and was ended.
        """
        script = _SCRIPT.format(
            run=RUN,
            folder=shlex.quote(self.folder),
            command=" ".join(map(shlex.quote, arguments)),
            power=_POWER,
        )
        try:
            code, samples = self._watch(script, arguments[0])
            return self._finished(_plain(arguments[0]), code, samples)
        except LostConnectionError:
            raise  # nothing can be asked now; the program ends at its next line
        except BaseException:
            with suppress(DeviceError):
                end_run(self.phone)
            raise

    def _watch(self, script: str, name: str) -> tuple[int, list[Sample]]:
        command = [adb_program(), "-s", self.phone.serial, "shell", script]
        end = time.monotonic() + self.seconds
        samples: list[Sample] = []
        with _started(command) as process:
            try:
                for line in _lines(process, end):
                    kind, _, rest = line.strip().partition(" ")
                    if kind == "ended":
                        return int(rest), samples
                    if kind == "sample":
                        samples.append(_sample(rest))
            except TimeoutError as error:
                silent = time.monotonic() < end
                raise _hung(self.phone.serial, _plain(name), self.seconds, silent=silent) from error
            finally:
                process.kill()
        raise LostConnectionError(
            f"{self.phone.serial}: the connection ended while {_plain(name)} ran", fix="run it again"
        )

    def _finished(self, name: str, code: int, samples: list[Sample]) -> Finished:
        command = (
            f"head -c {_OUTPUT_LIMIT} {RUN}/out && echo && echo {_BORDER} && tail -c 4000 {RUN}/err && rm -rf {RUN}"
        )
        output, _, errors = self.phone.ask(command).partition(f"{_BORDER}\n")
        if code == 0:
            return Finished(output, errors, tuple(samples))
        words = " | ".join(line.strip() for line in (errors.strip() or output.strip()).splitlines()[-3:])
        raise MeasurementError(
            f"{self.phone.serial}: {name} ended with {_code(code)} on the phone: {words or 'it printed nothing'}",
            fix=_code_fix(code),
        )


def end_run(phone: Phone) -> None:
    """End what still runs on the phone, and remove what it wrote. Nothing where nothing is there."""
    # Only a process of ours: after a restart, another one may have its number.
    ours = f"[ -e {RUN}/pid ] && read -r pid < {RUN}/pid && grep -q phipack /proc/$pid/cmdline"
    phone.run(f"{ours} 2>/dev/null && kill -9 $pid; rm -rf {RUN}")


def _started(command: list[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        problem, fix = not_started(command[0], error)
        raise DeviceError(problem, fix=fix) from error


def _lines(process: subprocess.Popen[str], end: float) -> Iterator[str]:
    """Yield what a process prints, line by line. Raises `TimeoutError` at `end`, or after a long silence."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with suppress(ValueError):  # closed by the other thread
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(0.0, min(_SILENCE_SECONDS, end - time.monotonic())))
        except queue.Empty as error:
            raise TimeoutError from error
        if line is None:
            return
        yield line


def _sample(text: str) -> Sample:
    seconds, peak, current, voltage, status = (text.split() + ["-"] * 5)[:5]
    kib = _number(peak)
    return Sample(
        seconds=float(seconds) if re.fullmatch(r"\d+(\.\d+)?", seconds) else 0.0,
        peak_bytes=None if kib is None else kib * 1024,
        microamperes=_number(current),
        microvolts=_number(voltage),
        status=_number(status),
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _hung(serial: str, name: str, seconds: float, *, silent: bool) -> DeviceError:
    if silent:
        return DeviceUnreachableError(
            f"{serial}: nothing came from the phone for {_SILENCE_SECONDS:.0f} s while {name} ran",
            fix="use another cable or port, keep the phone awake, then run the same command again",
        )
    return DeviceError(
        f"{serial}: {name} did not end within {seconds:.0f} s, and was ended",
        fix="raise --run-limit, measure fewer tokens (--prompt-tokens, --decode-tokens), or a smaller recipe",
    )


def _plain(program: str) -> str:
    return program.removeprefix("./")


def _code(code: int) -> str:
    """Return an exit code in words. Shells add 128 to the signal that ended a program."""
    with suppress(ValueError):
        if code > _SIGNALLED:
            return signal.Signals(code - _SIGNALLED).name
    return f"code {code}"


def _code_fix(code: int) -> str:
    if code == _SIGNALLED + signal.SIGKILL:
        return "most likely Android ended it for its memory: close other apps, or measure a smaller recipe"
    if code == _SIGNALLED + signal.SIGILL:
        return "the program uses instructions that this SoC has not: build it for this phone (docs/devices.md)"
    return "see its last lines; docs/devices.md says which programs are needed, and how to build them for the phone"
