"""The command line's edge: from here on, errors are sentences and exit codes, never tracebacks.

Exit codes: 0 done; 1 an error or a failed gate; 2 wrong usage; 130 interrupted (also on SIGTERM).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType

import click

from phipack.commands import cli
from phipack.options import State
from targets.errors import INTERRUPTED_EXIT_CODE, PhipackError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and give its exit code. Installed as `phipack`."""
    signal.signal(signal.SIGTERM, _interrupt)
    state = State()
    code = 0
    try:
        cli.main(args=arguments, prog_name="phipack", standalone_mode=False, obj=state)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:  # wrong usage: its exit code is 2
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        kept = "; ".join(getattr(error.__cause__ or error, "__notes__", ()))
        state.output.error(f"interrupted; {kept or 'nothing half-made was left'}")
        code = INTERRUPTED_EXIT_CODE
    except PhipackError as error:
        state.output.error(str(error))
        code = error.exit_code
    except ModuleNotFoundError as error:
        state.output.error(f"this needs {error.name}\n  fix: pip install 'phipack[{_extra_with(error.name)}]'")
        code = 1
    except Exception as error:  # noqa: BLE001 - the one place where a defect becomes a sentence
        if os.environ.get("PHIPACK_TRACEBACK"):
            traceback.print_exc()
        state.output.error(
            f"a defect of phipack: {type(error).__name__}: {error}\n"
            "  fix: run it again with PHIPACK_TRACEBACK=1 and report what it prints"
        )
        code = 1
    return code


def _extra_with(module: str | None) -> str:
    """Name the extra that brings a module."""
    return "registry" if (module or "").partition(".")[0] in ("boto3", "mlflow") else "build"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
