"""A session in a process of its own: a runtime that aborts takes that process down, and the caller gets an error.

llama.cpp aborts on a failed assertion, and the system kills what runs out of memory; neither raises in Python. The
other process runs `python -m builders.runtime.isolation BUNDLE [--for-whole-context]`. Its input and output carry

    asked     one line of JSON: {"ask": "score" | "prefill" | "extend" | "step", "tokens": [ids]}
              {"ask": "score_end", "tokens": [ids], "first": n}
              {"ask": "score_each", "windows": [[ids], …]}
              {"ask": "continue_each", "prompts": [[ids], …], "count": n, "stops": [ids], "known": [[ids], …]}
    answered  one line of JSON: {"shape": [...]}, then that many float32, little-endian; or {"tokens": [ids]};
              or {"problem": …, "fix": …}, which ends the answer

"each" and "end" ask for many answers, one after the other, each sent when it is computed: the pipe holds up the other
process until it is read, so no more than one is in memory on either side.

The first line, unasked: {"runtime": …, "is_own_runtime": …}. What the runtime itself prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from builders.runtime.refusal import check_fix
from builders.runtime.session import Session, Tokens, parts_from
from builders.runtime.sessions import open_for_whole_context, open_session
from registry.bundle.folder import Bundle, open_bundle
from targets.errors import MeasurementError, PhipackError
from targets.other_process import not_started
from targets.own_process import is_own_process

_ASKED = ("score", "prefill", "extend", "step", "score_end", "score_each", "continue_each")
_WHOLE = "--for-whole-context"
_Answer = TypeVar("_Answer")
_LAST_LINES = 3  # of the other process's standard error


class IsolatedSession(Session):
    """Implements `Session` by asking another process. `open_isolated` makes one."""

    def __init__(self, bundle: Bundle, *, for_whole_context: bool = False) -> None:
        self._bundle = bundle
        self._unread: list[Any] = []  # of an answer in several parts
        options = [_WHOLE] if for_whole_context else []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "builders.runtime.isolation", str(bundle.path), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            problem, fix = not_started(f"the process that runs {bundle.path}", error)
            raise MeasurementError(problem, fix=fix) from error
        try:
            greeting = self._answer()
        except BaseException:
            self.close()
            raise
        self.runtime = str(greeting["runtime"])
        self.is_own_runtime = bool(greeting["is_own_runtime"])

    @property
    def process_id(self) -> int:
        """Id of the other process."""
        return self._process.pid

    def score(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits [T, vocabulary] after each of T tokens, from an empty cache."""
        return self._ask("score", tokens)

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
        return self._ask("prefill", tokens)

    def extend(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Continue the sequence by tokens that are read together: logits [vocabulary] after the last one."""
        return self._ask("extend", tokens)

    def step(self, token: int) -> NDArray[np.float32]:
        """Go one token further: logits [vocabulary] after it."""
        return self._ask("step", np.asarray([token]))

    def score_each(self, windows: Sequence[Tokens]) -> Iterator[NDArray[np.float32]]:
        """Yield logits [T, vocabulary] of each window. What was not taken when the next is asked is lost."""
        request = {"ask": "score_each", "windows": [window.tolist() for window in windows]}
        return self._each(request, len(windows), self._array)

    def score_end(self, tokens: Tokens, first: int) -> Iterator[NDArray[np.float32]]:
        """Yield logits from token `first` on, part by part. What was not taken when the next is asked is lost."""
        request = {"ask": "score_end", "tokens": tokens.tolist(), "first": first}
        return self._each(request, len(parts_from(first, len(tokens))), self._array)

    def continue_each(
        self, prompts: Sequence[Tokens], count: int, *, stops: Collection[int] = (), known: Sequence[Tokens] = ()
    ) -> Iterator[Tokens]:
        """Yield each prompt's continuation. What was not taken when the next is asked is lost."""
        request = {"ask": "continue_each", "count": count, "stops": [int(stop) for stop in stops]}
        request |= {"prompts": [prompt.tolist() for prompt in prompts], "known": [ids.tolist() for ids in known]}
        return self._each(request, len(prompts), lambda: np.asarray(self._answer()["tokens"], np.int64))

    def close(self) -> None:
        """End the other process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                _close_quietly(stream)
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, what: str, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self._send({"ask": what, "tokens": [int(token) for token in tokens]})
        return self._array()

    def _each(self, request: dict[str, Any], count: int, read: Callable[[], _Answer]) -> Iterator[_Answer]:
        self._send(request)
        unread = [read] * count
        self._unread = unread
        while unread:
            try:
                answer = unread.pop()()
            except MeasurementError:  # the other process answers no more
                unread.clear()
                raise
            yield answer

    def _send(self, request: dict[str, Any]) -> None:
        while self._unread:
            try:
                self._unread.pop()()
            except MeasurementError:  # it ended the answer that nobody waits for
                self._unread.clear()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error

    def _array(self) -> NDArray[np.float32]:
        shape = self._answer()["shape"]
        values: NDArray[np.float32] = np.empty(shape, dtype="<f4")
        self._read_into(values.data.cast("B"))
        return values

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "problem" in answer:
            raise MeasurementError(answer["problem"], fix=answer["fix"])
        return answer

    def _read_into(self, target: memoryview) -> None:
        assert self._process.stdout is not None
        while len(target):
            count = self._process.stdout.readinto(target)  # type: ignore[attr-defined] # a BufferedReader has it
            if not count:
                raise self._death()
            target = target[count:]

    def _death(self) -> MeasurementError:
        code = self._process.wait()
        self._errors.seek(0)
        return died(self._bundle.path, code, self._errors.read().decode("utf-8", "replace"))


def open_isolated(bundle: Bundle, *, for_whole_context: bool = False) -> IsolatedSession:
    """Open a bundle in a process of its own; by default with the contexts that its manifest says are exact.

    Raises:
        MeasurementError: the runtime refuses the bundle, or the process dies, now or in any later call.
    """
    return IsolatedSession(bundle, for_whole_context=for_whole_context)


def died(path: Path, code: int, errors: str) -> MeasurementError:
    """Return the error that says how a bundle's process ended: its exit code or signal, and its last lines."""
    words = " | ".join(line.strip() for line in errors.strip().splitlines()[-_LAST_LINES:]) or "it printed nothing"
    if code >= 0:
        return MeasurementError(
            f"{path}: the process that ran it ended with code {code}: {words}",
            fix=check_fix(path),
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    fix = {
        "SIGABRT": f"the runtime itself aborted: see its last lines, and run phipack inspect --verify {path}",
        "SIGKILL": "most likely the system ran out of memory: use a shorter --context, or a machine with more",
    }.get(name, "run the same command again; if it ends the same way, report it with the lines above")
    return MeasurementError(f"{path}: the process that ran it was ended by {name}: {words}", fix=fix)


def serve(session: Session, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the input ends."""
    for line in asked:
        try:
            for values in _answers(session, json.loads(line)):
                if values.dtype == np.int64:
                    _send(answers, {"tokens": values.tolist()})
                    continue
                _send(answers, {"shape": values.shape})
                answers.write(np.ascontiguousarray(values, dtype="<f4").data.cast("B"))
                answers.flush()
        except PhipackError as error:
            _send(answers, {"problem": error.problem, "fix": error.fix})


def _answers(session: Session, request: dict[str, Any]) -> Iterator[NDArray[Any]]:
    """Yield what a request asks for: logits, or tokens."""

    def ids(name: str) -> list[Tokens]:
        return [np.asarray(tokens, np.int64) for tokens in request[name]]

    match request["ask"]:
        case "score_end":
            yield from session.score_end(np.asarray(request["tokens"], dtype=np.int64), request["first"])
        case "score_each":
            yield from session.score_each(ids("windows"))
        case "continue_each":
            yield from session.continue_each(
                ids("prompts"), request["count"], stops=request["stops"], known=ids("known")
            )
        case "step":
            yield session.step(int(request["tokens"][0]))
        case "score" | "prefill" | "extend" as what:
            yield getattr(session, what)(np.asarray(request["tokens"], dtype=np.int64))
        case other:
            raise MeasurementError(f"a session can't be asked {other!r}", fix=f"ask one of {', '.join(_ASKED)}")


def main(path: Path, *options: str) -> None:
    """Serve a bundle over standard input and output. Whatever else prints goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        session = (open_for_whole_context if _WHOLE in options else open_session)(open_bundle(path))
    except PhipackError as error:
        _send(answers, {"problem": error.problem, "fix": error.fix})
        return
    with session:
        _send(answers, {"runtime": session.runtime, "is_own_runtime": session.is_own_runtime})
        serve(session, sys.stdin.buffer, answers)


def _send(answers: IO[bytes], what: dict[str, Any]) -> None:
    answers.write(json.dumps(what).encode() + b"\n")
    answers.flush()


def _close_quietly(stream: IO[bytes]) -> None:
    """Close a pipe whose other end may be gone, with something still to be flushed."""
    try:
        stream.close()
    except BrokenPipeError:
        return


if __name__ == "__main__":
    is_own_process()
    main(Path(sys.argv[1]), *sys.argv[2:])
