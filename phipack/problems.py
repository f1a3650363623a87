"""Every way for a command to fail, as data: what people read, and the `error` of the JSON document."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import click

from targets.errors import (
    ERROR_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    Failure,
    GateError,
    PhipackError,
    RegistryError,
)
from targets.installation import extras_with, install_command
from targets.secrets import argument_shown, without_secrets

EXTRAS_OF_PACKAGES = {"builders": "build", "registry": "registry"}  # whose code needs which extra


class StandardOutputError(PhipackError):
    """Standard output can't be written."""


@dataclass(frozen=True)
class Problem:
    """Why a command failed. `kind`: the name of the error's class, or of what else ended it."""

    kind: str
    problem: str
    fix: str | None
    exit_code: int
    failures: tuple[Failure, ...] = ()
    registry: str | None = None

    @property
    def text(self) -> str:
        """For people: the problem, the registry that was read where it matters, and what to do next."""
        lines = ["\n    ".join(line.strip() for line in self.problem.splitlines())]  # a stranger's is no `fix:` of ours
        if self.registry is not None:
            lines.append(f"  registry: {self.registry}")
        if self.fix is not None:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """Return the `error` of the JSON document."""
        return {
            "kind": self.kind,
            "problem": self.problem,
            "fix": self.fix,
            "exit_code": self.exit_code,
            "failures": [{"cell": one.cell, "problem": one.problem} for one in self.failures],
            "registry": self.registry,
        }


def explain(error: BaseException, *, arguments: Sequence[str] = (), registry: str | None = None) -> Problem | None:
    """Return the problem that an exception stands for; None where there is nobody to tell, as behind a closed pipe.

    `registry`: the one that the command read, for errors that say what is missing in it. What is kept for the next try
    of interrupted work is said by a note on the interrupt (`error.add_note`).
    """
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, PhipackError):
        return _known(error, registry)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        notes = [note for one in (error, error.__cause__) for note in getattr(one, "__notes__", ())]
        return Problem("Interrupted", "; ".join(["interrupted", *notes]), None, INTERRUPTED_EXIT_CODE)
    if isinstance(error, click.ClickException):
        return _wrong_usage(error)
    return _foreign(error) or _defect(error, arguments)


def _wrong_usage(error: click.ClickException) -> Problem:
    context = error.ctx if isinstance(error, click.UsageError) else None
    fix = f"{'phipack' if context is None else context.command_path} --help"
    missing = isinstance(error, click.exceptions.NoArgsIsHelpError)
    return Problem("UsageError", "no command was given" if missing else error.format_message(), fix, error.exit_code)


def _foreign(error: BaseException) -> Problem | None:
    """What Python itself raises on this machine, rather than a defect of phipack."""
    if isinstance(error, ModuleNotFoundError):
        return _missing_module(error)
    if isinstance(error, MemoryError):
        return Problem("MemoryError", "out of memory", "close other programs, or use a machine with more memory", 1)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF) and not error.filename:
        problem = f"standard output can't be written: {error.strerror}"
        return Problem("StandardOutputError", problem, "redirect it elsewhere, or free space there", ERROR_EXIT_CODE)
    return None


def _defect(error: BaseException, arguments: Sequence[str]) -> Problem:
    again = " ".join(["phipack --log-file phipack.log", *(argument_shown(shlex.quote(one)) for one in arguments)])
    problem = without_secrets(f"a defect of phipack: {type(error).__name__}: {error}", *arguments)
    return Problem("InternalError", problem, f"{again}  and report the end of phipack.log", ERROR_EXIT_CODE)


def _known(error: PhipackError, registry: str | None) -> Problem:
    failures = tuple(getattr(error, "failures", ()))
    about_registry = isinstance(error, RegistryError | GateError)
    shown = registry if about_registry and registry is not None and registry not in error.problem else None
    return Problem(type(error).__name__, error.problem, error.fix, error.exit_code, failures, shown)


def _missing_module(error: ModuleNotFoundError) -> Problem:
    module = error.name or "a module"
    extras = extras_with(module)
    raised_in = _packages(error.__traceback__)
    extra = next((EXTRAS_OF_PACKAGES[one] for one in raised_in if EXTRAS_OF_PACKAGES.get(one) in extras), None)
    extra = extra or (extras[0] if extras else None)
    if extra is None:
        fix = f"pip install {module}, or install phipack again: {install_command()}"
        return Problem("MissingModuleError", f"this needs the Python module {module}", fix, ERROR_EXIT_CODE)
    problem = f"this needs the Python module {module}, which phipack's extra [{extra}] brings"
    return Problem("MissingModuleError", problem, install_command(extra), ERROR_EXIT_CODE)


def _packages(traceback: TracebackType | None) -> list[str]:
    """Top-level packages that a traceback passes, the innermost first."""
    found: list[str] = []
    while traceback is not None:
        found.append(str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        traceback = traceback.tb_next
    return found[::-1]
