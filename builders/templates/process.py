"""Starts the process that renders chat templates, one for each engine, when the first template is rendered."""

from __future__ import annotations

import atexit
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from targets.errors import BuildError
from targets.installation import install_command
from targets.other_process import not_started
from targets.strict_json import MalformedJsonError, parse_json

SECONDS_LIMIT = 10.0  # of one conversation; the longest of a real model's take milliseconds
_START_SECONDS = 120.0
_LOOK_SECONDS = 0.1
MEMORY_BYTES = 512 << 20  # beyond what the process starts with, as program.py says
_ANSWER_BYTES_LIMIT = 64 << 20
_PROGRAM = Path(__file__).with_name("program.py")
# The environment may hold passwords; a Python needs no more than this of it, and templates ask for the time.
_PASSED = (
    *("PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "HOME"),  # where it finds its packages
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TZ", "TMPDIR"),
)

Engine = Literal["jinja", "transformers"]


class ChatTemplateError(Exception):
    """A chat template can't be rendered. Its text says why; whoever catches it knows the file and the fix.

    `refused`: the template itself refuses the conversation, by `raise_exception`. `exhausted`: it exceeds a limit on
    time or memory.
    """

    def __init__(self, problem: str, *, refused: bool = False, exhausted: bool = False) -> None:
        super().__init__(problem)
        self.refused, self.exhausted = refused, exhausted


class _Renderer:
    """One process. After a failure that may leave it in disorder it is ended, and the next call starts another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.forget()

    def forget(self) -> None:
        """Leave the process and the lock to others: a fork has copies of both, and the lock's holder is not there."""
        self._process: subprocess.Popen[bytes] | None = None
        self._memory_limit: int | None = None
        self._one_at_a_time = threading.Lock()

    def render(self, asked: Mapping[str, Any]) -> str:
        """Return the rendered text. Raises `ChatTemplateError`; `BuildError` where no process can be started."""
        with self._one_at_a_time:
            try:
                answer = self._answer(self._running(), json.dumps(asked).encode() + b"\n")
            except BaseException:
                self.close()
                raise
            if "text" in answer:
                return str(answer["text"])
            if answer["why"] == "memory":
                self.close()
            line = "" if answer["line"] is None else f" (line {answer['line']} of the template)"
            raise ChatTemplateError(
                f"{answer['problem']}{line}",
                refused=answer["why"] == "refused",
                exhausted=answer["why"] == "memory",
            )

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", str(_PROGRAM), self._engine],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _PASSED if name in os.environ},
            )
        except OSError as error:
            problem, fix = not_started("the process that renders chat templates", error)
            raise BuildError(problem, fix=fix) from error
        try:
            started = _line_from(self._process, _START_SECONDS)
        except TimeoutError:
            started = b""
        has = resident_bytes(self._process.pid)
        self._memory_limit = None if has is None else has + MEMORY_BYTES
        if not started:
            raise BuildError(
                f"the process that renders chat templates does not start: {sys.executable} {_PROGRAM}",
                fix=f"run that command and see what it says; it needs jinja2: {install_command('build')}",
            )
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any]:
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return _ended(process)
        try:
            if not (raw := _line_from(process, SECONDS_LIMIT, self._memory_limit)):
                return _ended(process)
            answer: dict[str, Any] = parse_json(raw)
        except MemoryError as error:
            raise ChatTemplateError("it needs too much memory", exhausted=True) from error
        except TimeoutError as error:
            raise ChatTemplateError(f"it was not rendered within {SECONDS_LIMIT:g} s", exhausted=True) from error
        except MalformedJsonError as error:
            raise ChatTemplateError(f"what it writes is no text: {error}") from error
        return answer


def _line_from(process: subprocess.Popen[bytes], seconds: float, memory_limit: int | None = None) -> bytes:
    """Read a line, empty where the process ends.

    The process is ended where none comes in time, which raises `TimeoutError`, or where it takes more memory than
    `memory_limit` meanwhile, which raises `MemoryError`: macOS does not hold it to the limit that it sets itself.
    """
    assert process.stdout is not None
    done, why = threading.Event(), list[Exception]()

    def watch() -> None:
        until = time.monotonic() + seconds
        while not done.wait(_LOOK_SECONDS):
            if time.monotonic() >= until:
                why.append(TimeoutError())
            elif memory_limit is not None and (resident_bytes(process.pid) or 0) > memory_limit:
                why.append(MemoryError())
            if why:
                process.kill()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        line = process.stdout.readline(_ANSWER_BYTES_LIMIT)
    finally:
        done.set()
        watcher.join()
    if line.endswith(b"\n"):
        return line
    if why:
        raise why[0]
    return b""


def resident_bytes(process_id: int) -> int | None:
    """Return how much memory a process has now, as the system says; None where it does not say."""
    try:
        if platform.system() == "Linux":  # mypy takes sys.platform as known
            return int(Path(f"/proc/{process_id}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident_bytes_by_ps(process_id)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def resident_bytes_by_ps(process_id: int) -> int:
    """Return the same by POSIX's `ps`, in its kibibytes. Raises `OSError`, `ValueError`, `SubprocessError`."""
    command = ["ps", "-o", "rss=", "-p", str(process_id)]
    return int(subprocess.run(command, capture_output=True, check=True, timeout=5).stdout) * 1024  # noqa: S603


def _ended(process: subprocess.Popen[bytes]) -> NoReturn:
    process.kill()
    raise ChatTemplateError(f"the process that rendered it ended with {process.wait()}", exhausted=True)


_RENDERERS: dict[Engine, _Renderer] = {"jinja": _Renderer("jinja"), "transformers": _Renderer("transformers")}
for _renderer in _RENDERERS.values():
    atexit.register(_renderer.close)
    os.register_at_fork(after_in_child=_renderer.forget)


def render_chat(  # noqa: PLR0913 - all that a rendering depends on
    template: str,
    messages: Sequence[Mapping[str, str]],
    special_tokens: Mapping[str, str],
    *,
    tools: Sequence[Mapping[str, Any]] | Literal["undefined"] | None = None,
    add_generation_prompt: bool = True,
    engine: Engine = "jinja",
    moment: str | None = None,
) -> str:
    """Return a conversation as `apply_chat_template` writes it: sandboxed, `documents` None.

    `special_tokens`: by role, as the tokenizer has them. `tools`: JSON schemas, as transformers passes them on;
    "undefined" leaves the name out, as some engines do. `engine`: "transformers" uses transformers' own function.
    `moment`: what the template takes for now, as ISO 8601 has it, in the engine "jinja"; the machine's time by default.

    Raises:
        ChatTemplateError: it can't be parsed or run, refuses the conversation, or exceeds a limit.
        BuildError: the other process can't be started.
    """
    return _RENDERERS[engine].render(
        {
            "template": template,
            "messages": [dict(message) for message in messages],
            "special_tokens": dict(special_tokens),
            "tools": [dict(tool) for tool in tools] if isinstance(tools, Sequence) and tools != "undefined" else tools,
            "add_generation_prompt": add_generation_prompt,
            "moment": moment,
        }
    )
