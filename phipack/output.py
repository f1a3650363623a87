"""The one place that prints. Results go to standard output; progress, notes and errors to standard error.

Modes: for people (tables), `--json` (one document on standard output, whatever happens), `--quiet` (errors alone).

    {"schema": "phipack.cli/1", "ok": true,  "command": "ls", "result": …}
    {"schema": "phipack.cli/1", "ok": false, "command": "promote", "error": {"kind": "GateError", "problem": …,
     "fix": …, "exit_code": 3, "failures": [{"cell": …, "problem": …}]}}

A command that has a result and fails, such as a release with one bad cell, has both `result` and `error`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from dataclasses import asdict, dataclass, field
from typing import Literal, TextIO

from phipack.log_file import LogFile
from phipack.problems import Problem, StandardOutputError
from phipack.profile import Profile, Profiler
from phipack.profile_text import profile_text
from phipack.progress_display import Display, StepTimes, open_display
from targets.formatting import duration
from targets.printable import printable, printable_json
from targets.progress import Event, Notice, Phase

Mode = Literal["human", "json", "quiet"]
CLI_SCHEMA = "phipack.cli/1"
_NOTHING: object = object()


@dataclass
class Output:
    """Where commands put what they found. The command line's options set `mode`, `verbose` and `log`.

    `command`: the command's name, such as `targets ls`; empty before one is known. `secret_addresses`: those that the
    command works on; the log leaves out what is secret in them. `profiler`: counts where the time goes, where that
    was asked for; what it found is printed when the command ends.
    """

    mode: Mode = "human"
    verbose: bool = False
    log: LogFile | None = None
    command: str = ""
    secret_addresses: list[str] = field(default_factory=list)
    profiler: Profiler | None = None
    _result: object = _NOTHING
    _profile: Profile | None = None
    _display: Display | None = None
    _steps: StepTimes = field(default_factory=StepTimes)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def has_result(self) -> bool:
        """True where the command has given a result."""
        return self._result is not _NOTHING

    def result(self, data: object, text: str) -> None:
        """Print a command's result: `text` for people; `data` as JSON, when the command has ended."""
        self._close_display()
        self._result = data
        self._logged(text)
        if self.mode == "human" and text:
            _print(sys.stdout, text + "\n")

    def stream(self, piece: str) -> None:
        """Print a piece of a result that appears bit by bit; for people alone."""
        if self.mode == "human":
            self._close_display()
            _print(sys.stdout, piece)

    def note(self, text: str) -> None:
        """Tell a person what is going on; silent in the other modes."""
        self._logged(text)
        if self.mode == "human":
            self._say(text)

    def detail(self, text: str) -> None:
        """Print what only `--verbose` shows, in every mode."""
        self._logged(text)
        if self.verbose:
            self._say(text)

    def annotate(self, line: str) -> None:
        """Print a line that a CI service reads from standard error; in every mode."""
        self._close_display()
        _print(sys.stderr, line + "\n")

    def on_progress(self, event: Event) -> None:
        """Show progress: bars on a terminal, elsewhere one line for each step of each subject. From any thread."""
        if isinstance(event, Notice):
            self.note(event.text)
            return
        if self.profiler is not None:
            self.profiler.add(event)
        if isinstance(event, Phase):
            return
        with self._lock:
            for line in self._steps.lines(event):
                self.detail(line)
            if self.mode != "human":
                return
            if self._display is None:
                self._display = open_display()
            self._display.show(event)

    def end(self, problem: Problem | None, *, usage: str = "") -> None:
        """Print what comes last: the JSON document, or the error. `usage`: how the command is called."""
        self._close_display()
        if self.profiler is not None:
            self._profile = self.profiler.end()
            self.note(profile_text(self._profile))
        if problem is not None:
            self._logged(problem.text)
        if self.mode == "json":
            self._print_document(problem)
        elif problem is not None and problem.text:
            _print(sys.stderr, f"{usage}phipack: {problem.text}\n")

    def fail(self, problem: Problem) -> None:
        """Print an error where standard output can't be written."""
        self._logged(problem.text)
        _print(sys.stderr, f"phipack: {problem.text}\n")

    def close(self, exit_code: int, seconds: float) -> None:
        """Say how it ended, where that was asked for, and close the log."""
        self._close_display()
        self.detail(f"{' '.join(filter(None, ('phipack', self.command)))}: exit code {exit_code}, {duration(seconds)}")
        if self.log is not None:
            self.log.close()

    def _print_document(self, problem: Problem | None) -> None:
        document: dict[str, object] = {"schema": CLI_SCHEMA, "ok": problem is None, "command": self.command or None}
        if self._result is not _NOTHING or problem is None:
            document["result"] = None if self._result is _NOTHING else self._result
        if self._profile is not None:
            document["profile"] = asdict(self._profile)
        if problem is not None:
            document["error"] = problem.as_json()
        _print(sys.stdout, as_json(document) + "\n")

    def _say(self, text: str) -> None:
        if self._display is not None:
            self._display.say(text)
        else:
            _print(sys.stderr, text + "\n")

    def _logged(self, text: str) -> None:
        if self.log is not None and text:
            self.log.write(text)

    def _close_display(self) -> None:
        with self._lock:
            if self._display is not None:
                self._display.close()
                self._display = None


def as_json(document: object) -> str:
    """Return JSON that every reader takes: no NaN, nothing that a terminal obeys, ASCII where there is no UTF-8."""
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(json.loads(text), indent=2, allow_nan=False)
    return printable_json(text)


def _finite(value: object) -> object:
    """Replace the numbers that JSON has not by their names, as evidence does."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _print(stream: TextIO | None, text: str) -> None:
    """Write all of it now, and nothing in it that a terminal would obey.

    A reader that is gone, or a full disk, is `StandardOutputError`; for errors, nobody's.
    """
    if stream is None:  # closed by who started this process
        if text and sys.stderr is not None:
            raise StandardOutputError("standard output is closed", fix="run the command without >&-")
        return
    try:
        stream.write(_encodable(printable(text), stream))
        stream.flush()
    except BrokenPipeError:
        if stream is sys.stdout:
            raise
    except OSError as error:
        if stream is sys.stdout:
            raise StandardOutputError(
                f"standard output can't be written: {error.strerror or error}",
                fix="free space where it is redirected to, or redirect it elsewhere",
            ) from error
    except ValueError:  # the stream was closed in this process
        return


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def drop_standard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail on it as it exits."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):  # no file behind it
        return
