"""The command line's edge: from here on, errors are sentences and exit codes, never tracebacks.

Exit codes: 0 done; 1 an error; 2 wrong usage; 3 a gate failed; 4 a service is unreachable, so that the same command may
succeed later; 130 interrupted (also by SIGTERM). Behind a pipe whose reader is gone, as with `| head`: 1, silently.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from phipack.commands import cli
from phipack.options import State
from phipack.output import drop_standard_output
from phipack.problems import Problem, explain
from targets.errors import ERROR_EXIT_CODE, INTERRUPTED_EXIT_CODE, PhipackError
from targets.own_process import is_own_process

COMPLETE_VARIABLE = "_PHIPACK_COMPLETE"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code. Installed as `phipack`."""
    if arguments is None:  # as a program
        is_own_process()
    given = sys.argv[1:] if arguments is None else arguments
    state, started = State(arguments=tuple(given)), time.monotonic()
    if COMPLETE_VARIABLE in os.environ:
        import phipack.shell_scripts  # noqa: F401 - registers our script for bash
    try:
        with _sigterm_interrupts():
            code, shown, error = _run(state)
            if not shown:
                code = _end(state, code, error)
        state.output.close(code, time.monotonic() - started)
    except KeyboardInterrupt:  # while the result or an error is printed or logged
        if state.output.log is not None:
            state.output.log.close()
        return INTERRUPTED_EXIT_CODE
    return code


def _run(state: State) -> tuple[int, bool, BaseException | None]:
    """Run a command. Return its exit code, whether click itself has printed all (`--help`), and what ended it."""
    try:
        returned = cli.main(args=list(state.arguments), prog_name="phipack", standalone_mode=False, obj=state)
    except SystemExit as error:  # a completion's answer
        return error.code if isinstance(error.code, int) else 0, True, None
    except BaseException as error:  # noqa: BLE001 - the one place where whatever happens becomes a sentence
        return ERROR_EXIT_CODE, False, error
    code = returned if isinstance(returned, int) else 0  # of click's Exit: --help, or a command's own code
    return code, isinstance(returned, int) and not state.output.has_result, None


def _end(state: State, code: int, error: BaseException | None) -> int:
    """Print what comes last. Return the exit code, which is 1 where standard output can't be written."""
    problem, usage = None, ""
    if error is not None:
        problem = explain(error, arguments=state.arguments, registry=state.registry)
        code = ERROR_EXIT_CODE if problem is None else problem.exit_code
        usage = _note_usage(state, error)
        if state.output.log is not None:
            state.output.log.write("".join(traceback.format_exception(error)))
    try:
        if error is None or problem is not None:
            state.output.end(problem, usage=usage)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = ERROR_EXIT_CODE
        drop_standard_output()
    except (OSError, PhipackError) as unwritable:
        code = ERROR_EXIT_CODE
        drop_standard_output()
        state.output.fail(explain(unwritable) or Problem("StandardOutputError", str(unwritable), None, code))
    return code


def _note_usage(state: State, error: BaseException) -> str:
    """Set the mode and the command of a call that could not be parsed. Return how the command is called."""
    if not isinstance(error, click.UsageError):
        return ""
    given = state.arguments
    if "--json" in (given[: given.index("--")] if "--" in given else given):
        state.output.mode = "json"
    if error.ctx is None:
        return ""
    state.output.command = error.ctx.command_path.partition(" ")[2]
    return f"{error.ctx.get_usage()}\n"


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
